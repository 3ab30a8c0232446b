/* Boot sector: loads SECTORS sectors to 64 KiB, maps the first GiB, enters 64-bit mode, enables the CPU state XCR0 names
 * (0xe7: up to AVX-512), and jumps to the program. */
.code16
.section .boot,"ax"
.globl _start
_start:
  cli
  xor %ax,%ax
  mov %ax,%ds
  mov %ax,%es
  mov %ax,%ss
  mov $0x7c00,%sp
  ljmp $0,$1f
1:
  mov %dl,drive
  in $0x92,%al
  or $2,%al
  out %al,$0x92
  mov $(SECTORS/64),%cx
2: push %cx
  mov $dap,%si
  mov $0x42,%ah
  mov drive,%dl
  int $0x13
  jc fail
  addw $0x800,dap_seg
  addl $64,dap_lba
  pop %cx
  loop 2b
  # page tables at 0x1000
  mov $0x1000,%edi
  xor %eax,%eax
  mov $0x3000/4,%ecx
  rep stosl
  movl $0x2003,0x1000
  movl $0x3003,0x2000
  mov $0x3000,%di
  mov $0x83,%eax
  mov $512,%cx
3: mov %eax,(%di)
  add $0x200000,%eax
  add $8,%di
  loop 3b
  mov $0x40620,%eax      # PAE | OSFXSR | OSXMMEXCPT | OSXSAVE
  mov %eax,%cr4
  mov $0x1000,%eax
  mov %eax,%cr3
  mov $0xC0000080,%ecx
  rdmsr
  or $0x100,%eax
  wrmsr
  mov %cr0,%eax
  and $0xfffffffb,%eax
  or $0x80000003,%eax
  mov %eax,%cr0
  lgdt gdtr
  ljmp $8,$long
fail:
  mov $'F',%al
  out %al,$0xe9
  hlt
.code64
long:
  mov $0x10,%ax
  mov %ax,%ds
  mov %ax,%es
  mov %ax,%ss
  mov $0x8ffff8,%rsp
  xor %ecx,%ecx
  xor %edx,%edx
  mov $XCR0,%eax
  xsetbv
  mov $0x10000,%eax
  jmp *%rax
.align 4
dap: .byte 16,0
 .word 64
 .word 0
dap_seg: .word 0x1000
dap_lba: .long 1,0
drive: .byte 0
.align 8
gdt: .quad 0, 0x00209A0000000000, 0x0000920000000000
gdtr: .word 23
 .long gdt
.org 510
.word 0xaa55
