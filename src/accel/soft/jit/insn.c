/* See insn.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "accel/soft/jit/insn.h"

#include "arch/x86/cpu.h"

#define ATTR_VECTOR (X86_ATTR_SSE | X86_ATTR_AVX | X86_ATTR_AVX512 | X86_ATTR_MMX | X86_ATTR_X87)

/* The operand that may lie in memory, or NULL. */
static const X86Operand *memory_operand(const X86Insn *insn)
{
    for (unsigned n = 0; n < insn->form->operand_count; n++) {
        const X86Operand *o = &insn->form->operands[n];
        switch (o->kind) {
        case X86_OPERAND_E:
        case X86_OPERAND_M:
        case X86_OPERAND_W:
        case X86_OPERAND_Q:
        case X86_OPERAND_KM:
            return o;
        default:
            break;
        }
    }
    return NULL;
}

unsigned jit_memory_size(const X86Insn *insn, bool *write)
{
    const X86Operand *o = insn->is_memory ? memory_operand(insn) : NULL;
    if (!o) {
        *write = false;
        return 0;
    }
    /* A LOCKed or compared operand is written even where its value stays. */
    *write = (o->access & X86_ACCESS_W) != 0;
    return x86_memory_bytes(insn, o);
}

bool jit_is_fpu(const X86Insn *insn)
{
    return insn->form->attrs & ATTR_VECTOR;
}

bool jit_is_light(const X86Insn *insn)
{
    switch (insn->form->mnemonic) {
    case X86_BT:
    case X86_BTC:
    case X86_BTR:
    case X86_BTS:
    case X86_CLAC:
    case X86_CLD:
    case X86_CLI:
    case X86_CMPS:
    case X86_ENTER:
    case X86_IRET:
    case X86_MOV:
    case X86_MOV_FROM_SEG:
    case X86_MOV_TO_SEG:
    case X86_PAUSE:
    case X86_POP:
    case X86_POPF:
    case X86_PUSH:
    case X86_PUSHF:
    case X86_RDFSBASE:
    case X86_RDGSBASE:
    case X86_SCAS:
    case X86_STAC:
    case X86_STD:
    case X86_STI:
    case X86_SWAPGS:
    case X86_SYSCALL:
    case X86_SYSRET:
    case X86_WRFSBASE:
    case X86_WRGSBASE:
    case X86_XLAT:
        return true;
    default:
        return false;
    }
}

static bool is_shift_form(const X86Insn *insn)
{
    switch (insn->form->mnemonic) {
    case X86_ROL:
    case X86_ROR:
    case X86_RCL:
    case X86_RCR:
    case X86_SHL:
    case X86_SHR:
    case X86_SAR:
    case X86_SHLD:
    case X86_SHRD:
        return true;
    default:
        return false;
    }
}

bool jit_flags_conditional(const X86Insn *insn)
{
    if (!is_shift_form(insn)) {
        return false;
    }
    if (!insn->imm_size) {
        const X86Form *form = insn->form;
        const X86Operand *count = &form->operands[form->operand_count - 1];
        return count->kind == X86_OPERAND_GPR; /* CL; else the count is 1 */
    }
    bool wide = insn->operand_size == 8 && insn->form->operands[0].size != X86_SIZE_B;
    return (insn->imm & (wide ? 63 : 31)) == 0;
}

static bool mode_allows(const X86Form *form, uint32_t key)
{
    if (form->attrs & X86_ATTR_AVX512) {
        return key & MODE_AVX512_OK;
    }
    if (form->attrs & X86_ATTR_AVX) {
        return key & MODE_AVX_OK;
    }
    if (form->attrs & X86_ATTR_SSE) {
        return key & MODE_SSE_OK;
    }
    return key & MODE_FPU_OK;
}

static JitKind classify_vector(const X86Insn *insn, uint32_t key)
{
    const X86Form *form = insn->form;

    if (!mode_allows(form, key)) {
        return JIT_CALLOUT;
    }
    /* Of a masked operand not all may be accessed: where all of it lies in one page that may be, the
     * instruction runs as it is, else the interpreter does it (it is never part of a group that is checked
     * for more than it needs: the careful variant ends there, too). Compressed elements lie elsewhere than
     * the encoding says. */
    if (insn->is_memory && (form->evex & X86_EVEX_T1S)) {
        return JIT_CALLOUT;
    }
    switch (form->mnemonic) {
    case X86_VZEROUPPER:
    case X86_VZEROALL:
    case X86_STMXCSR:
    case X86_VSTMXCSR:
    case X86_FLDCW:
    case X86_FNSTCW:
    case X86_FNSTSW:
    case X86_FNCLEX:
    case X86_FNINIT:
    case X86_FWAIT:
        break;
    default:
        if (!(form->attrs & X86_ATTR_NATIVE)) {
            return JIT_CALLOUT;
        }
    }
    return JIT_COPY;
}

static JitKind classify_integer(const X86Insn *insn, uint32_t key)
{
    bool supervisor = (key >> MODE_CPL_SHIFT & 3) == 0;

    switch (insn->form->mnemonic) {
    case X86_ADC:
    case X86_ADCX:
    case X86_ADD:
    case X86_ADOX:
    case X86_AND:
    case X86_ANDN:
    case X86_BEXTR:
    case X86_BLSI:
    case X86_BLSMSK:
    case X86_BLSR:
    case X86_BSF:
    case X86_BSR:
    case X86_BSWAP:
    case X86_BZHI:
    case X86_CBW:
    case X86_CLC:
    case X86_CMC:
    case X86_CMOVA:
    case X86_CMOVAE:
    case X86_CMOVB:
    case X86_CMOVBE:
    case X86_CMOVE:
    case X86_CMOVG:
    case X86_CMOVGE:
    case X86_CMOVL:
    case X86_CMOVLE:
    case X86_CMOVNE:
    case X86_CMOVNO:
    case X86_CMOVNP:
    case X86_CMOVNS:
    case X86_CMOVO:
    case X86_CMOVP:
    case X86_CMOVS:
    case X86_CMP:
    case X86_CMPXCHG:
    case X86_CMPXCHG16B:
    case X86_CMPXCHG8B:
    case X86_CRC32:
    case X86_CWD:
    case X86_DEC:
    case X86_DIV:
    case X86_IDIV:
    case X86_IMUL1:
    case X86_IMUL2:
    case X86_IMUL3:
    case X86_INC:
    case X86_LAHF:
    case X86_LFENCE:
    case X86_LZCNT:
    case X86_MFENCE:
    case X86_MOVBE:
    case X86_MOVNTI:
    case X86_MOVSX:
    case X86_MOVSXD:
    case X86_MOVZX:
    case X86_MUL:
    case X86_MULX:
    case X86_NEG:
    case X86_NOT:
    case X86_OR:
    case X86_PDEP:
    case X86_PEXT:
    case X86_POPCNT:
    case X86_RCL:
    case X86_RCR:
    case X86_ROL:
    case X86_ROR:
    case X86_RORX:
    case X86_SAHF:
    case X86_SAR:
    case X86_SARX:
    case X86_SBB:
    case X86_SETA:
    case X86_SETAE:
    case X86_SETB:
    case X86_SETBE:
    case X86_SETE:
    case X86_SETG:
    case X86_SETGE:
    case X86_SETL:
    case X86_SETLE:
    case X86_SETNE:
    case X86_SETNO:
    case X86_SETNP:
    case X86_SETNS:
    case X86_SETO:
    case X86_SETP:
    case X86_SETS:
    case X86_SFENCE:
    case X86_SHL:
    case X86_SHLD:
    case X86_SHLX:
    case X86_SHR:
    case X86_SHRD:
    case X86_SHRX:
    case X86_STC:
    case X86_SUB:
    case X86_TEST:
    case X86_TZCNT:
    case X86_XADD:
    case X86_XOR:
        return JIT_COPY;
    case X86_MOV:
        for (unsigned n = 0; n < insn->form->operand_count; n++) {
            if (insn->form->operands[n].kind == X86_OPERAND_O) {
                return JIT_CALLOUT;
            }
        }
        return JIT_COPY;
    case X86_XCHG:
    case X86_XCHG_AX:
        return JIT_COPY;
    case X86_BT:
    case X86_BTC:
    case X86_BTR:
    case X86_BTS:
        /* With a register's bit offset a memory operand is a bit string. */
        return insn->is_memory && !insn->imm_size ? JIT_CALLOUT : JIT_COPY;
    case X86_LEA:
        return JIT_LEA;
    case X86_NOP:
    case X86_ENDBR:
    case X86_PREFETCH:
        return JIT_NOP;
    case X86_PUSH:
        return insn->operand_size == 8 ? JIT_PUSH : JIT_CALLOUT;
    case X86_POP:
        return insn->operand_size == 8 && !insn->is_memory ? JIT_POP : JIT_CALLOUT;
    case X86_LEAVE:
        return insn->operand_size == 8 ? JIT_LEAVE : JIT_CALLOUT;
    case X86_CALL:
        return JIT_CALL;
    case X86_CALL_IND:
        return JIT_CALL_IND;
    case X86_JMP:
        return JIT_JMP;
    case X86_JMP_IND:
        return JIT_JMP_IND;
    case X86_RET:
        return JIT_RET;
    case X86_JA:
    case X86_JAE:
    case X86_JB:
    case X86_JBE:
    case X86_JE:
    case X86_JG:
    case X86_JGE:
    case X86_JL:
    case X86_JLE:
    case X86_JNE:
    case X86_JNO:
    case X86_JNP:
    case X86_JNS:
    case X86_JO:
    case X86_JP:
    case X86_JS:
        return JIT_JCC;
    case X86_LOOP:
    case X86_LOOPE:
    case X86_LOOPNE:
    case X86_JRCXZ:
        return JIT_LOOP;
    case X86_CLD:
    case X86_STD:
    case X86_PAUSE:
        return JIT_SYSTEM;
    case X86_CLI:
    case X86_STI:
        return key & MODE_IOPL_OK ? JIT_SYSTEM : JIT_CALLOUT;
    case X86_STAC:
    case X86_CLAC:
    case X86_SWAPGS:
        return supervisor ? JIT_SYSTEM : JIT_CALLOUT;
    case X86_MOV_FROM_SEG:
        return !insn->is_memory && insn->operand_size >= 4 && insn->reg < SEG_COUNT ? JIT_SYSTEM
                                                                                    : JIT_CALLOUT;
    case X86_PUSHF:
    case X86_POPF:
        return insn->operand_size == 8 ? JIT_SYSTEM : JIT_CALLOUT;
    case X86_STOS:
    case X86_MOVS:
        return insn->address_size == 8 && insn->segment < SEG_FS ? JIT_STRING : JIT_CALLOUT;
    case X86_UD0:
    case X86_UD1:
    case X86_UD2:
        return JIT_STEP;
    default:
        return JIT_CALLOUT;
    }
}

bool jit_takes_memory(const X86Insn *insn)
{
    unsigned map = insn->form->map, opcode = insn->bytes[insn->opcode_offset];

    if (!insn->form->has_modrm) {
        return false;
    }
    if (insn->form->space == X86_SPACE_VEX) { /* those of general registers */
        return (map == 2 && opcode >= 0xf2 && opcode <= 0xf7) || (map == 3 && opcode == 0xf0);
    }
    if (insn->form->space != X86_SPACE_LEGACY) {
        return false;
    }
    switch (map) {
    case 0:
        return (opcode < 0x40 && (opcode & 7) < 4) || opcode == 0x63 || opcode == 0x69 || opcode == 0x6b ||
               (opcode >= 0x80 && opcode <= 0x85 && opcode != 0x82) || (opcode >= 0x88 && opcode <= 0x8b) ||
               opcode == 0xc0 || opcode == 0xc1 || opcode == 0xc6 || opcode == 0xc7 ||
               (opcode >= 0xd0 && opcode <= 0xd3) || opcode == 0xf6 || opcode == 0xf7 || opcode == 0xfe ||
               opcode == 0xff;
    case 1:
        return (opcode & 0xf0) == 0x40 || opcode == 0xaf || opcode == 0xb6 || opcode == 0xb7 ||
               opcode == 0xb8 || (opcode >= 0xbc && opcode <= 0xbf);
    case 2:
        return opcode == 0xf6; /* ADCX, ADOX */
    default:
        return false;
    }
}

JitKind jit_kind_of(const X86Insn *insn, uint32_t key)
{
    return insn->form->attrs & ATTR_VECTOR ? classify_vector(insn, key) : classify_integer(insn, key);
}

JitKind jit_classify(const X86Insn *insn, uint32_t key, JitOperands *operands)
{
    const X86Form *form = insn->form;
    const JitOperands *o = operands;
    JitKind kind = jit_kind_of(insn, key);

    jit_operands(insn, operands);
    if (insn->base == X86_REG_RIP && (insn->address_size != 8 || insn->disp > INT32_MAX - 8192)) {
        return JIT_CALLOUT;
    }
    if (kind == JIT_COPY || kind == JIT_PUSH || kind == JIT_CALL_IND || kind == JIT_JMP_IND) {
        bool write;
        if (insn->is_memory && jit_memory_size(insn, &write) == 0) {
            return JIT_CALLOUT;
        }
        unsigned spilled = o->spilled;
        if (o->rm_gpr && jit_is_spilled((unsigned)o->rm) && !o->writes[1] && o->rm != o->reg &&
            o->rm != o->vvvv && jit_takes_memory(insn)) {
            spilled--; /* it is used in memory */
        }
        if (spilled > (insn->is_memory && form->mnemonic != X86_MULX ? 1u : 2u)) {
            return JIT_CALLOUT;
        }
        if (o->high_byte && ((o->reg_gpr && !o->byte[0] && o->reg == R_RSP) ||
                             (o->rm_gpr && !o->byte[1] && o->rm == R_RSP))) {
            return JIT_CALLOUT; /* RSP lives where a REX prefix is needed, which AH cannot have */
        }
        if (o->high_byte && insn->is_memory && (form->mnemonic == X86_CMPXCHG || (key & KEY_WINDOW))) {
            return JIT_CALLOUT; /* AL must stay where it is: it is wanted, or the access may fault */
        }
        if ((kind == JIT_CALL_IND || kind == JIT_JMP_IND) && insn->operand_size != 8) {
            return JIT_CALLOUT;
        }
    }
    return kind;
}

void jit_operands(const X86Insn *insn, JitOperands *o)
{
    const X86Form *form = insn->form;
    uint32_t spilled = 0;
    unsigned spilled_count = 0;

    memset(o, 0, sizeof(*o));
    o->reg = form->digit >= 0 ? form->digit : insn->reg;
    o->rm = insn->rm;
    o->vvvv = insn->vvvv;
    o->legacy_byte = !(insn->prefixes & X86_INSN_REX) && form->space == X86_SPACE_LEGACY;
    for (unsigned n = 0; n < form->operand_count; n++) {
        const X86Operand *operand = &form->operands[n];
        unsigned role;
        int number;
        switch (operand->kind) {
        case X86_OPERAND_G:
            role = 0;
            o->reg_gpr = true;
            number = o->reg;
            break;
        case X86_OPERAND_E:
        case X86_OPERAND_R:
        case X86_OPERAND_Z:
            if (insn->is_memory) {
                continue;
            }
            role = 1;
            o->rm_gpr = true;
            number = o->rm;
            break;
        case X86_OPERAND_B:
            role = 2;
            o->vvvv_gpr = true;
            number = o->vvvv;
            break;
        default:
            continue;
        }
        o->byte[role] = operand->size == X86_SIZE_B;
        o->reads[role] = true; /* also where only a part is written, or nothing in some cases */
        o->writes[role] = operand->access & X86_ACCESS_W;
        if (o->byte[role] && o->legacy_byte && number >= 4) {
            o->high_byte = true;
        }
        if (jit_is_spilled((unsigned)number) && !(spilled >> number & 1)) {
            spilled |= 1u << number;
            spilled_count++;
        }
    }
    o->spilled = spilled_count;
    /* What sets the whole register does not need its old value. */
    switch (form->mnemonic) {
    case X86_MULX:
        o->reads[0] = o->reads[2] = false;
        break;
    case X86_MOV:
    case X86_MOVZX:
    case X86_MOVSX:
    case X86_MOVSXD:
    case X86_IMUL3:
        if (insn->operand_size >= 4) {
            for (unsigned k = 0; k < 2; k++) {
                if (o->writes[k] && !o->byte[k] && form->operands[0].access == X86_ACCESS_W) {
                    o->reads[k] = false;
                }
            }
        }
        break;
    default:
        break;
    }
}

void jit_emit(Asm *a, const X86Insn *insn, const JitOperands *o, const HostMem *m)
{
    const X86Form *form = insn->form;
    unsigned reg = (unsigned)o->reg, opcode = insn->bytes[insn->opcode_offset];
    bool r = reg & 8, x = m && m->index > 7, b = m ? m->base > 7 : o->rm & 8;
    unsigned pp = insn->mandatory == X86_PREFIX_66   ? 1
                  : insn->mandatory == X86_PREFIX_F3 ? 2
                  : insn->mandatory == X86_PREFIX_F2 ? 3
                                                     : 0;
    uint8_t spare[A_INSN], *p = a_begin(a, spare);

    if (form->space == X86_SPACE_EVEX) {
        unsigned vvvv = (unsigned)o->vvvv;
        x = m ? x : o->rm & 16;
        *p++ = (uint8_t)(0x62);
        *p++ = (uint8_t)((r ? 0 : 0x80u) | (x ? 0 : 0x40u) | (b ? 0 : 0x20u) | (reg & 16 ? 0 : 0x10u) |
                         form->map);
        *p++ = (uint8_t)((unsigned)insn->rex_w << 7 | (~vvvv & 15) << 3 | 4 | pp);
        *p++ = (uint8_t)((unsigned)insn->evex_z << 7 | (unsigned)insn->evex_ll << 5 |
                         (unsigned)insn->evex_b << 4 | (vvvv & 16 ? 0 : 8u) | insn->opmask);
    } else if (form->space == X86_SPACE_VEX) {
        unsigned last = (~(unsigned)o->vvvv & 15) << 3 | (unsigned)insn->vex_l << 2 | pp;
        if (form->map == 1 && !x && !b && !insn->rex_w) {
            *p++ = (uint8_t)(0xc5);
            *p++ = (uint8_t)((r ? 0 : 0x80u) | last);
        } else {
            *p++ = (uint8_t)(0xc4);
            *p++ = (uint8_t)((r ? 0 : 0x80u) | (x ? 0 : 0x40u) | (b ? 0 : 0x20u) | form->map);
            *p++ = (uint8_t)((unsigned)insn->rex_w << 7 | last);
        }
    } else {
        if (insn->prefixes & X86_INSN_LOCK) {
            *p++ = (uint8_t)(0xf0);
        }
        if (insn->prefixes & X86_INSN_66) {
            *p++ = (uint8_t)(0x66);
        }
        if (form->prefix == X86_PREFIX_F3) {
            *p++ = (uint8_t)(0xf3);
        } else if (form->prefix == X86_PREFIX_F2) {
            *p++ = (uint8_t)(0xf2);
        }
        unsigned rex = (unsigned)insn->rex_w << 3 | (r ? 4u : 0) | (x ? 2u : 0) | (b ? 1u : 0);
        if (rex || (insn->prefixes & X86_INSN_REX)) {
            *p++ = (uint8_t)(0x40 | rex);
        }
        if (form->map >= 1) {
            *p++ = (uint8_t)(0x0f);
        }
        if (form->map >= 2) {
            *p++ = (uint8_t)(form->map == 2 ? 0x38 : 0x3a);
        }
    }
    if (form->plus_r) {
        *p++ = (uint8_t)((opcode & ~7u) | ((unsigned)o->rm & 7));
    } else {
        *p++ = (uint8_t)(opcode);
    }
    if (form->has_modrm) {
        if (m && form->space == X86_SPACE_EVEX) {
            p = put_modrm_mem(p, reg, m, false); /* its disp8 is scaled */
        } else if (m) {
            p = put_modrm_mem(p, reg, m, true);
        } else {
            *p++ = (uint8_t)(0xc0 | (reg & 7) << 3 | ((unsigned)o->rm & 7));
        }
    }
    for (unsigned k = 0; k < insn->imm_size; k++) {
        *p++ = insn->bytes[insn->imm_offset + k];
    }
    a_end(a, p);
}

uint32_t jit_written_gprs(const X86Insn *insn, JitKind kind, const JitOperands *o)
{
    const X86Form *form = insn->form;
    uint32_t mask = 0;

    switch (kind) {
    case JIT_NOP:
    case JIT_JMP:
    case JIT_JMP_IND:
    case JIT_JCC:
        return 0;
    case JIT_LEA:
        return 1u << insn->reg;
    case JIT_PUSH:
    case JIT_CALL:
    case JIT_CALL_IND:
    case JIT_RET:
        return 1u << R_RSP;
    case JIT_POP:
        return 1u << R_RSP | 1u << insn->rm;
    case JIT_LEAVE:
        return 1u << R_RSP | 1u << R_RBP;
    case JIT_LOOP:
        return 1u << R_RCX;
    case JIT_SYSTEM:
        switch (form->mnemonic) {
        case X86_PUSHF:
        case X86_POPF:
            return 1u << R_RSP;
        case X86_MOV_FROM_SEG:
            return 1u << insn->rm;
        default:
            return 0;
        }
    case JIT_STRING:
    case JIT_CALLOUT:
    case JIT_STEP:
        return 0xffff;
    case JIT_COPY:
        break;
    }
    int numbers[3] = { o->reg, o->rm, o->vvvv };
    for (unsigned k = 0; k < 3; k++) {
        if (o->writes[k]) {
            unsigned n = (unsigned)numbers[k];
            mask |= 1u << (o->byte[k] && o->legacy_byte && n >= 4 && n < 8 ? n - 4 : n);
        }
    }
    for (unsigned n = 0; n < form->operand_count; n++) {
        if (form->operands[n].kind == X86_OPERAND_GPR && (form->operands[n].access & X86_ACCESS_W)) {
            mask |= 1u << form->operands[n].number;
        }
    }
    /* Implied ones. */
    switch (form->mnemonic) {
    case X86_MUL:
    case X86_IMUL1:
    case X86_DIV:
    case X86_IDIV:
    case X86_CMPXCHG8B:
    case X86_CMPXCHG16B:
    case X86_CBW:
    case X86_CWD:
    case X86_CMPXCHG:
    case X86_LAHF:
    case X86_FNSTSW:
    case X86_XCHG_AX:
        mask |= 1u << R_RAX | 1u << R_RDX;
        break;
    case X86_PCMPESTRI:
    case X86_VPCMPESTRI:
    case X86_PCMPISTRI:
    case X86_VPCMPISTRI:
        mask |= 1u << R_RCX;
        break;
    default:
        break;
    }
    return mask;
}

uint32_t jit_read_gprs(const X86Insn *insn, JitKind kind, const JitOperands *o)
{
    const X86Form *form = insn->form;
    uint32_t mask = 0;

    if (kind == JIT_NOP || kind == JIT_JCC || kind == JIT_JMP) {
        return 0;
    }
    if (kind != JIT_COPY && kind != JIT_LEA) {
        return 0xffff;
    }
    if (insn->is_memory) {
        mask |= insn->base < 16 ? 1u << insn->base : 0;
        mask |= insn->index < 16 ? 1u << insn->index : 0;
    }
    if (kind == JIT_LEA) {
        return mask;
    }
    int numbers[3] = { o->reg, o->rm, o->vvvv };
    bool gpr[3] = { o->reg_gpr, o->rm_gpr, o->vvvv_gpr };
    for (unsigned k = 0; k < 3; k++) {
        if (gpr[k]) {
            unsigned n = (unsigned)numbers[k];
            mask |= 1u << (o->byte[k] && o->legacy_byte && n >= 4 && n < 8 ? n - 4 : n);
        }
    }
    for (unsigned n = 0; n < form->operand_count; n++) {
        if (form->operands[n].kind == X86_OPERAND_GPR) {
            mask |= 1u << form->operands[n].number;
        }
    }
    /* Implied ones, generously. */
    switch (form->mnemonic) {
    case X86_MUL:
    case X86_MULX:
    case X86_IMUL1:
    case X86_DIV:
    case X86_IDIV:
    case X86_CMPXCHG:
    case X86_CMPXCHG8B:
    case X86_CMPXCHG16B:
    case X86_CBW:
    case X86_CWD:
    case X86_LAHF:
    case X86_SAHF:
    case X86_FNSTSW:
    case X86_XCHG_AX:
    case X86_PCMPESTRI:
    case X86_VPCMPESTRI:
    case X86_PCMPESTRM:
    case X86_VPCMPESTRM:
        mask |= 1u << R_RAX | 1u << R_RDX | 1u << R_RBX | 1u << R_RCX;
        break;
    default:
        break;
    }
    return mask;
}

uint32_t jit_narrow_gprs(const X86Insn *insn, JitKind kind, const JitOperands *o)
{
    const X86Form *form = insn->form;

    if (kind == JIT_LEA) {
        return insn->operand_size == 4 ? 1u << insn->reg : 0;
    }
    if (kind != JIT_COPY || form->operand_count == 0) {
        return 0;
    }
    switch (form->mnemonic) {
    case X86_MOVZX:
    case X86_MOVSX:
    case X86_MOVSXD:
        return insn->operand_size >= 4 ? 1u << insn->reg : 0;
    case X86_MOV:
    case X86_ADD:
    case X86_SUB:
    case X86_AND:
    case X86_OR:
    case X86_XOR:
    case X86_NEG:
    case X86_NOT:
    case X86_INC:
    case X86_DEC:
    case X86_SHL:
    case X86_SHR:
    case X86_SAR:
    case X86_ROL:
    case X86_ROR:
    case X86_BSWAP:
        return insn->operand_size == 4 && form->operands[0].size == X86_SIZE_V
                   ? jit_written_gprs(insn, kind, o)
                   : 0;
    default:
        return 0;
    }
}

int jit_constant_move(const X86Insn *insn, JitKind kind, int32_t *amount)
{
    switch (kind) {
    case JIT_SYSTEM:
        *amount = insn->form->mnemonic == X86_PUSHF ? -8 : 8;
        return insn->form->mnemonic == X86_PUSHF || insn->form->mnemonic == X86_POPF ? R_RSP : -1;
    case JIT_PUSH:
        *amount = -8;
        return R_RSP;
    case JIT_POP:
        *amount = 8;
        return insn->rm == R_RSP ? -1 : R_RSP;
    case JIT_LEA:
        if (insn->operand_size == 8 && insn->address_size == 8 && insn->base == insn->reg &&
            insn->index == X86_REG_NONE) {
            *amount = insn->disp;
            return insn->reg;
        }
        return -1;
    case JIT_COPY:
        break;
    default:
        return -1;
    }
    if (insn->is_memory || insn->operand_size != 8) {
        return -1;
    }
    const X86Form *form = insn->form;
    bool register_form = form->operand_count >= 1 && form->operands[0].kind == X86_OPERAND_E &&
                         form->operands[0].size == X86_SIZE_V;
    switch (form->mnemonic) {
    case X86_ADD:
    case X86_SUB:
        if (form->operand_count == 2 && form->operands[1].kind == X86_OPERAND_I) {
            int64_t imm = (int64_t)insn->imm;
            *amount = form->mnemonic == X86_ADD ? (int32_t)imm : (int32_t)-imm;
            if (imm == INT32_MIN) {
                return -1;
            }
            if (register_form) {
                return insn->rm;
            }
            return form->operands[0].kind == X86_OPERAND_GPR && form->operands[0].size == X86_SIZE_V ? R_RAX
                                                                                                     : -1;
        }
        return -1;
    case X86_INC:
    case X86_DEC:
        if (register_form) {
            *amount = form->mnemonic == X86_INC ? 1 : -1;
            return insn->rm;
        }
        return -1;
    default:
        return -1;
    }
}
