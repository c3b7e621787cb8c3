/* libjpeg's errors, and its warnings about the picture's data, as a jump back into the function that called it. */
#ifndef ADACOMPRESS_TRAP_H
#define ADACOMPRESS_TRAP_H

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

#include "core.h"

#ifndef LIBJPEG_TURBO_VERSION
#error "libjpeg-turbo is needed; this is another libjpeg"
#endif

typedef struct {
    struct jpeg_error_mgr errors; /* first: libjpeg knows the trap by it */
    jmp_buf out;
    aj_status status;
    char *message;
} aj_trap;

/* After it, `setjmp(trap->out)` has to follow before anything of libjpeg's is called. */
struct jpeg_error_mgr *aj_set_trap(aj_trap *trap, char message[AJ_MESSAGE]);

/* Jumps out with a message of ours. */
void aj_leave(aj_trap *trap, aj_status status, const char *message);

#endif
