// What a kernel is specialised by. `launches.py` defines those that are on; an option that is off
// leaves no trace in the machine code.
//
//     LOGIT, LABEL      Half | Bfloat16 | float | double
//     LOSS              the header with the loss's formula
//     IDS               labels are class ids; otherwise distributions, or nothing (LABELS 0)

#pragma once

#ifndef LABELS
#define LABELS 1
#endif
#ifndef LABEL
#define LABEL LOGIT
#endif
#ifndef IDS
#define IDS 0
#endif
#ifndef LABEL_TABLE  // distributions that rows share
#define LABEL_TABLE 0
#endif
#ifndef STRIDED  // the class axis is not the last one
#define STRIDED 0
#endif
#ifndef LOGIT_ALIGNMENT  // bytes that every row of logits is aligned to, 16 at most
#define LOGIT_ALIGNMENT 2
#endif
#ifndef LABEL_ALIGNMENT
#define LABEL_ALIGNMENT 2
#endif
#ifndef GRAD_LOGITS  // also where the output is what is asked for
#define GRAD_LOGITS 0
#endif
#ifndef GRAD_LABELS
#define GRAD_LABELS 0
#endif
#ifndef SOFTCAP
#define SOFTCAP 0
#endif
#ifndef TEMPERATURE
#define TEMPERATURE 0
#endif
#ifndef LABEL_SMOOTHING
#define LABEL_SMOOTHING 0
#endif
#ifndef CLASS_WEIGHT
#define CLASS_WEIGHT 0
#endif
#ifndef POS_WEIGHT
#define POS_WEIGHT 0
#endif
#ifndef Z_LOSS
#define Z_LOSS 0
#endif
#ifndef TF_GRADIENT  // p - y whatever a row of y sums to
#define TF_GRADIENT 0
#endif
#ifndef LOGSUMEXP
#define LOGSUMEXP 0
#endif
#ifndef ARGMAX
#define ARGMAX 0
#endif
#ifndef ENTROPY
#define ENTROPY 0
#endif
#ifndef TARGET_IS_LOGITS
#define TARGET_IS_LOGITS 0
#endif
#ifndef CLIP_FIRST
#define CLIP_FIRST 0
#endif
#ifndef FOCAL  // in elements.cu, with sigmoid
#define FOCAL 0
#endif
