"""The machine that crashes: how it is set up to dump, and where its dumps go and stay.

keys, values        one set of words for what kdump shall do, and what they may say
documents, dialects the files of three distributions, and our own; config: one of them, read
system              the machine, or a tree of one
plan, writing       what is about to be done to it: all of it or nothing
size, policies      what crashkernel= means, and how much to reserve
bootloader          the boot loader told so; entries, bls, grubcfg: what it starts by default
services, kexec     the capture kernel loaded at boot, or now; reboot: the next kernel
status, check       armed or not, and why; what will go wrong at the next crash
proof, rehearsal    whether a crash leaves a dump: tried here, or in a virtual machine
setup, tui          `crashpy setup`
capture             `crashpy capture`: what runs between the crash and the reboot
urls, targets, ...  where dumps go: `crashpy save`
layouts, inventory  what lies there, whoever saved it; retention: what is too many of it
report, sums        README.txt and SHA256SUMS beside a dump
parts, bundle       what the analysis of a dump needs, found by BUILD-ID and put beside it
notify              the mail about it

Rationale: setup writes nothing but through a Plan, so that every verb can show what it
would do, and no half-done change is left behind.
"""
