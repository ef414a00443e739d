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
    # An image without it would save nothing, and dracut goes on without a module that fails.
    ${CRASHPY:-COMMAND} capture stage "$initdir" --kernel "$kernel" || {
        dfatal "crashpy: nothing was built"
        kill "$$"
    }
    inst_hook cmdline 01 "$moddir/cmdline.sh"
    inst_hook pre-mount 01 "$moddir/capture.sh"
}
