#!/bin/sh
[ ! -e /proc/vmcore ] || /usr/lib/crashpy/start
