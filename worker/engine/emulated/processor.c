// What Bochs lacks to be a Sapphire Rapids with AMX: loaded before it, with its path in BOCHS.
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void *original(const char *name) {
    void *bochs = dlopen(getenv("BOCHS"), RTLD_NOLOAD | RTLD_NOW);
    void *found = bochs ? dlsym(bochs, name) : NULL;
    if (!found) {
        fprintf(stderr, "the emulator has no %s\n", name);
        exit(1);
    }
    return found;
}

// The package makes a Cannon Lake and gives no choice.
void *_Z23create_corei3_cnl_cpuidP8BX_CPU_C(void *processor) {
    return ((void *(*)(void *)) original("_Z28create_sapphire_rapids_cpuidP8BX_CPU_C"))(processor);
}

// CPUID says that there are tiles, and products of bytes in them.
#define LEAF_7 _ZNK17sapphire_rapids_t20get_std_cpuid_leaf_7EjP16cpuid_function_t
#define TEXT_OF(name) #name
#define NAME_OF(name) TEXT_OF(name)
void LEAF_7(void *self, unsigned subfunction, unsigned registers[4]) {
    ((void (*)(void *, unsigned, unsigned *)) original(NAME_OF(LEAF_7)))(self, subfunction, registers);
    if (subfunction == 0)
        registers[3] |= 1u << 24 | 1u << 25;
}

// It was built for a newer C library, which has these for C23.
unsigned long long __isoc23_strtoull(const char *text, char **end, int base) {
    return strtoull(text, end, base);
}

long __isoc23_strtol(const char *text, char **end, int base) {
    return strtol(text, end, base);
}

int __isoc23_sscanf(const char *text, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int found = vsscanf(text, format, list);
    va_end(list);
    return found;
}
