"""Machine code in binutils' words. What gdb prints for these bytes was seen in crash 9.0.2."""

import itertools

import pytest

from crashpy.disassembly import Disassembler

SEEN = """
    488b4740 mov    0x40(%rdi),%rax
    4883ec80 sub    $0xffffffffffffff80,%rsp
    83c0f0 add    $0xfffffff0,%eax
    6683c0f0 add    $0xfff0,%ax
    c600f0 movb   $0xf0,(%rax)
    48c700ffffffff movq   $0xffffffffffffffff,(%rax)
    48b83f3f3f3f3f3f3f3f movabs $0x3f3f3f3f3f3f3f3f,%rax
    65488b042528000000 mov    %gs:0x28,%rax
    8bb4b700040000 mov    0x400(%rdi,%rsi,4),%esi
    488b0cf5a0a87581 mov    -0x7e8a5760(,%rsi,8),%rcx
    478d743d00 lea    0x0(%r13,%r15,1),%r14d
    488d742600 lea    0x0(%rsi,%riz,1),%rsi
    678d0440 lea    (%eax,%eax,2),%eax
    0fb64eff movzbl -0x1(%rsi),%ecx
    63d2 movsxd %edx,%edx
    d1eb shr    $1,%ebx
    6641d17e1a sarw   $1,0x1a(%r14)
    d3e8 shr    %cl,%eax
    480fba2c2405 btsq   $0x5,(%rsp)
    0f00d0 lldt   %eax
    0f21dd mov    %db3,%rbp
    ec in     (%dx),%al
    e680 out    %al,$0x80
    f3a4 rep movsb %ds:(%rsi),%es:(%rdi)
    f348ab rep stos %rax,%es:(%rdi)
    f2ae repnz scas %es:(%rdi),%al
    f3a6 repz cmpsb %es:(%rdi),%ds:(%rsi)
    f0480fb11f lock cmpxchg %rbx,(%rdi)
    f083082a lock orl $0x2a,(%rax)
    c3 ret
    f3c3 repz ret
    48cf iretq
    cb lret
    9c pushf
    0f0b ud2
    0fb9cc ud1    %esp,%ecx
    670fb94010 ud1    0x10(%eax),%eax
    90 nop
    f390 pause
    6690 xchg   %ax,%ax
    0f1f440000 nopl   0x0(%rax,%rax,1)
    662e0f1f840000000000 cs nopw 0x0(%rax,%rax,1)
    66662e0f1f840000000000 data16 cs nopw 0x0(%rax,%rax,1)
    f30f1efa endbr64
    0f01e8 serialize
    f30f01d9 vmgexit
    f20f00f7 lkgs   %edi
    f20f38f802 enqcmd (%rdx),%rax
    3effe0 notrack jmp *%rax
    ff5018 call   *0x18(%rax)
    4e85c0 rex.WRX test %r8,%rax
    66490f6ee9 movq   %r9,%xmm5
    f20f2a01 cvtsi2sdl (%rcx),%xmm0
    c4e37944e601 vpclmulhqlqdq %xmm6,%xmm0,%xmm4
    62d1e5cbd4de vpaddq %zmm14,%zmm3,%zmm3{%k3}{z}
    f24c0f38f18100fcffff crc32q -0x400(%rcx),%r8
    dec1 faddp  %st,%st(1)
    06 (bad)
    4806 rex.W (bad)
"""


@pytest.fixture(scope="module")
def decoder():
    return Disassembler()


@pytest.mark.parametrize("row", SEEN.strip().splitlines())
def test_spelling(decoder, row):
    code, _, text = row.strip().partition(" ")
    [found] = decoder.instructions(bytes.fromhex(code), 0x1000)
    assert found.text == text
    assert found.target is None


@pytest.mark.parametrize(
    ("code", "text", "target"),
    [
        ("e800000000", "call   0xffffffff81000005", 0xFFFFFFFF81000005),
        ("ebfe", "jmp    0xffffffff81000000", 0xFFFFFFFF81000000),
        ("2e7620", "jbe,pn 0xffffffff81000023", 0xFFFFFFFF81000023),
        ("0f84f6ffffff", "je     0xffffffff80fffffc", 0xFFFFFFFF80FFFFFC),
        ("e3fe", "jrcxz  0xffffffff81000000", 0xFFFFFFFF81000000),
        ("67e800000000", "addr32 call 0xffffffff81000006", 0xFFFFFFFF81000006),
        ("488b0500000000", "mov    0x0(%rip),%rax        # 0xffffffff81000007", 0xFFFFFFFF81000007),
        ("65488b0500000000", "mov    %gs:0x0(%rip),%rax        # 0xffffffff81000008",
         0xFFFFFFFF81000008),
        ("ff25faffff7e", "jmp    *0x7efffffa(%rip)        # 0x0", 0),
    ],
)  # fmt: skip
def test_targets(decoder, code, text, target):
    [found] = decoder.instructions(bytes.fromhex(code), 0xFFFFFFFF81000000)
    assert (found.text, found.target) == (text, target)


def test_one_after_the_other(decoder):
    code = bytes.fromhex("55 06 4889e5 c3")
    found = list(decoder.instructions(code, 0x1000))
    assert [i.address for i in found] == [0x1000, 0x1001, 0x1002, 0x1005]
    assert b"".join(i.data for i in found) == code


def test_what_is_cut_off_is_left_out(decoder):
    assert [i.text for i in decoder.instructions(bytes.fromhex("90 0fb9"), 0)] == ["nop"]


def test_any_bytes_become_instructions(decoder):
    code = bytes(n * 37 % 251 for n in range(20_000))
    found = list(decoder.instructions(code, 0))
    assert all(a.address + len(a.data) == b.address for a, b in itertools.pairwise(found))
    assert found[-1].address > len(code) - 32


def test_bytes_behind_ud2():
    decoder = Disassembler()
    decoder.skipped = 3
    found = decoder.instructions(bytes.fromhex("0f0b 112233 90"), 0)
    assert [(i.text, len(i.data)) for i in found] == [("ud2", 5), ("nop", 1)]
