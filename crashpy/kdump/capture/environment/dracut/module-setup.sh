#!/bin/bash
# dracut's module for the kernel that saves a crashed one's memory: it is added by
# --add crashpy, and never by itself.

check() {
    return 255
}

depends() {
    echo base
}


install() {
    # shellcheck disable=SC2154
    crashpy capture stage "$initdir" --kernel "$kernel" || return 1
    inst_hook cmdline 01 "$moddir/cmdline.sh"
    inst_hook pre-mount 01 "$moddir/capture.sh"
}
