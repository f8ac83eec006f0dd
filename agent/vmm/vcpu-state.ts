/**
 * Initial vCPU state in the kernel's own structs (linux/kvm.h). Every vCPU gets the
 * same; application processors wait for the guest's start-up IPI in the in-kernel
 * LAPIC, which overrides it.
 */
import { LAYOUT } from "./memory-map.ts";

const REGS_BYTES = 144;
const FPU_BYTES = 416;
const MSR_ENTRY_BYTES = 16;

const REG = { rsi: 4, rsp: 6, rbp: 7, rip: 16, rflags: 17 } as const;
const SEGMENT_BYTES = 24;
/** kvm_sregs: cs ds es fs gs ss tr ldt, gdt, idt, then control registers. */
const SREGS = { tr: 6, gdt: 192, idt: 208, cr0: 224, cr3: 240, cr4: 248, efer: 264 } as const;
const CR0_PE_PG = 0x80000001n;
const CR4_PAE = 0x20n;
const EFER_LME_LMA = 0x500n;

const LVT_LINT0 = 0x350;
const LVT_LINT1 = 0x360;
const DELIVERY_NMI = 4;
const DELIVERY_EXTINT = 7;

/** kvm_regs for the 64-bit entry: rsi = zero page, interrupts off. */
export function bootRegs(entry: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(REGS_BYTES));
  const set = (register: number, value: number): void =>
    view.setBigUint64(register * 8, BigInt(value), true);
  set(REG.rsi, LAYOUT.zeroPage);
  set(REG.rsp, LAYOUT.stackTop);
  set(REG.rbp, LAYOUT.stackTop);
  set(REG.rip, entry);
  set(REG.rflags, 2);
  return new Uint8Array(view.buffer);
}

type Segment = { selector: number; type: number; db: number; s: number; l: number };

function setSegment(view: DataView, index: number, segment: Segment): void {
  const at = index * SEGMENT_BYTES;
  view.setBigUint64(at, 0n, true);
  // The scaled limit: VMCS and VMCB do not scale it again.
  view.setUint32(at + 8, 0xffffffff, true);
  view.setUint16(at + 12, segment.selector, true);
  // type, present, dpl, db, s, l, g, avl, unusable
  const bytes = [segment.type, 1, 0, segment.db, segment.s, segment.l, 1, 0, 0];
  bytes.forEach((byte, i) => view.setUint8(at + 14 + i, byte));
}

/** kvm_sregs: the reset state (APIC base and the rest stay) turned to flat long mode. */
export function bootSregs(reset: Uint8Array): Uint8Array {
  const sregs = Uint8Array.from(reset);
  const view = new DataView(sregs.buffer);
  setSegment(view, 0, { selector: 8, type: 0xb, db: 0, s: 1, l: 1 });
  for (let index = 1; index <= 5; index += 1)
    setSegment(view, index, { selector: 16, type: 0x3, db: 1, s: 1, l: 0 });
  setSegment(view, SREGS.tr, { selector: 24, type: 0xb, db: 0, s: 0, l: 0 });
  view.setBigUint64(SREGS.gdt, BigInt(LAYOUT.gdt), true);
  view.setUint16(SREGS.gdt + 8, 31, true);
  view.setBigUint64(SREGS.idt, BigInt(LAYOUT.idt), true);
  view.setUint16(SREGS.idt + 8, 7, true);
  view.setBigUint64(SREGS.cr0, view.getBigUint64(SREGS.cr0, true) | CR0_PE_PG, true);
  view.setBigUint64(SREGS.cr3, BigInt(LAYOUT.pml4), true);
  view.setBigUint64(SREGS.cr4, CR4_PAE, true);
  view.setBigUint64(SREGS.efer, EFER_LME_LMA, true);
  return sregs;
}

/** kvm_fpu after FNINIT, MXCSR at its default. */
export function bootFpu(): Uint8Array {
  const view = new DataView(new ArrayBuffer(FPU_BYTES));
  view.setUint16(128, 0x37f, true);
  view.setUint32(408, 0x1f80, true);
  return new Uint8Array(view.buffer);
}

/** kvm_lapic_state: LINT0 = ExtINT, LINT1 = NMI, as firmware leaves it. */
export function bootLapic(reset: Uint8Array): Uint8Array {
  const lapic = Uint8Array.from(reset);
  const view = new DataView(lapic.buffer);
  const deliver = (at: number, mode: number): void =>
    view.setUint32(at, (view.getUint32(at, true) & ~0x700) | (mode << 8), true);
  deliver(LVT_LINT0, DELIVERY_EXTINT);
  deliver(LVT_LINT1, DELIVERY_NMI);
  return lapic;
}

/** kvm_msr_entry[]. Without MTRRdefType = write-back the default is uncached. */
export function bootMsrs(): Uint8Array {
  const values: readonly (readonly [number, number])[] = [
    [0x174, 0], // SYSENTER_CS, ESP, EIP
    [0x175, 0],
    [0x176, 0],
    [0xc0000081, 0], // STAR, LSTAR, CSTAR, SYSCALL_MASK, KERNEL_GS_BASE
    [0xc0000082, 0],
    [0xc0000083, 0],
    [0xc0000084, 0],
    [0xc0000102, 0],
    [0x10, 0], // TSC
    [0x1a0, 1], // MISC_ENABLE: fast strings
    [0x2ff, 0x806], // MTRRdefType: enabled, write-back
  ];
  const view = new DataView(new ArrayBuffer(values.length * MSR_ENTRY_BYTES));
  values.forEach(([index, value], i) => {
    view.setUint32(i * MSR_ENTRY_BYTES, index, true);
    view.setBigUint64(i * MSR_ENTRY_BYTES + 8, BigInt(value), true);
  });
  return new Uint8Array(view.buffer);
}
