"""The machine that crashes: how it is set up to dump, and where its dumps go and stay.

documents, config   the files of three distributions, and one set of words for them
system, plan        the machine or a tree of one; what is about to be done to it
size, bootloader    how much memory to reserve, and the boot loader told so
services, kexec     the capture kernel loaded at boot, or now
status, check       armed or not, and why; what will go wrong at the next crash
setup, tui          `crashpy setup`
urls, targets, ...  where dumps go: `crashpy save`

Rationale: setup writes nothing but through a Plan, so that every verb can show what it
would do, and no half-done change is left behind.
"""
