#!/bin/sh
# The first process of the 48-CPU machine: mount what a container host has, with cgroup v2 alone.
# /usr/bin stands before /bin, as on any Debian: /bin/python3 would miss /usr/local.
export PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mkdir /dev/shm && mount -t tmpfs tmpfs /dev/shm # multiprocessing keeps its semaphores there
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo '+cpu +cpuset' >/sys/fs/cgroup/cgroup.subtree_control

# FORM, short or full, comes from the kernel's command line: init(1) inherits what the kernel does not know.
python3 /machine/machine_guest.py "$FORM"
echo b >/proc/sysrq-trigger # a reboot, at which QEMU ends
sleep 60
