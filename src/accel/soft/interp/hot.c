#include "accel/soft/interp/ops.h"
InterpHandler *interp_hot_handler(X86Cpu *cpu, const X86Insn *insn, InterpOp *op)
{
    return NULL;
}
bool interp_hot_fuse(InterpOp *previous, const InterpOp *op)
{
    return false;
}
