#!/bin/sh
# No root file system is waited for where the capture kernel is given none.
if [ -e /proc/vmcore ] && { ! root=$(getarg root=) || [ "$root" = kdump ]; }; then
    root=crashpy
    rootok=1
fi
