/* Which instruction set the kernels use. Chosen once, from what the processor has; a test may choose a lesser one. */
#ifndef QHYBRIDD_CPU_H
#define QHYBRIDD_CPU_H

enum cpu_set {
    CPU_PORTABLE, /* plain C11 */
    CPU_AVX2,     /* AVX2, BMI2, POPCNT, PCLMULQDQ */
    CPU_AVX512,   /* AVX-512 F, BW, DQ, VL, VBMI, VPOPCNTDQ, and VPCLMULQDQ */
};

/* The set in use: the best that the processor has, or the lesser one that was chosen. Any thread may ask. */
enum cpu_set cpu_set(void);

/* The target attribute of a function that may use a set, for GCC and Clang: `CPU_TARGET_AVX512 static void f(…)`. */
#if defined(__x86_64__)
#define CPU_TARGET_AVX2 __attribute__((target("avx2,bmi,bmi2,popcnt,pclmul")))
#define CPU_TARGET_AVX512 \
    __attribute__((target("avx2,bmi,bmi2,popcnt,pclmul,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vpopcntdq,vpclmulqdq")))
#endif

#endif
