#!/bin/sh
# The first process of the 48-CPU machine: mount what a container host has, with cgroup v2 alone.
# /usr/bin stands before /bin, as on any Debian: /bin/python3 would miss /usr/local.
export PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin
# runc and crun want to pivot_root, which the kernel refuses below an initramfs; the same files, mounted over it, will do.
if [ -z "$MOVED" ] && [ -x /usr/bin/podman ]; then
    export MOVED=1
    mount --bind / /mnt && cd /mnt && mount --move . / && exec chroot . /bin/sh /init
fi
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mkdir /dev/shm && mount -t tmpfs tmpfs /dev/shm # multiprocessing keeps its semaphores there
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo '+cpu +cpuset +memory +pids' >/sys/fs/cgroup/cgroup.subtree_control

# FORM and KINDS come from the kernel's command line: init(1) inherits what the kernel does not know.
python3 /machine/machine_guest.py "$FORM" "$KINDS"
echo b >/proc/sysrq-trigger # a reboot, at which QEMU ends
sleep 60
