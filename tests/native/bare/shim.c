/* The few libc functions that lanes_check.c needs, on a machine with nothing but a CPU: text goes to Bochs' debug port,
 * and the end is told to its shutdown port. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern char bss_start[], bss_end[];
void *stderr;
int main(void);

static inline void out(uint16_t port, char value)
{
    __asm__ volatile("outb %0,%1" ::"a"(value), "Nd"(port));
}

static void put(char value)
{
    out(0xe9, value);
}

void exit(int status)
{
    for (const char *at = "exit "; *at; at++)
        put(*at);
    put((char)('0' + status));
    put('\n');
    for (const char *at = "Shutdown"; *at; at++)
        out((uint16_t)0x8900, *at);
    for (;;)
        __asm__ volatile("hlt");
}

__attribute__((section(".entry"))) void entry(void)
{
    for (volatile char *at = bss_start; at < bss_end; at++)
        *at = 0;
    exit(main());
}

void *memcpy(void *to, const void *from, size_t count)
{
    char *a = to;
    const char *b = from;

    while (count--)
        *a++ = *b++;
    return to;
}

void *memmove(void *to, const void *from, size_t count)
{
    char *a = to;
    const char *b = from;

    if (a < b)
        return memcpy(to, from, count);
    while (count--)
        a[count] = b[count];
    return to;
}

void *memset(void *to, int value, size_t count)
{
    for (char *a = to; count--;)
        *a++ = (char)value;
    return to;
}

int memcmp(const void *left, const void *right, size_t count)
{
    const unsigned char *a = left, *b = right;

    for (; count--; a++, b++)
        if (*a != *b)
            return *a - *b;
    return 0;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a - *b;
}

static void put_number(size_t value)
{
    if (value > 9)
        put_number(value / 10);
    put((char)('0' + value % 10));
}

/* Knows %s and %zu: nothing else is printed. */
static void put_format(const char *format, va_list arguments)
{
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
        } else if (*++format == 's') {
            for (const char *at = va_arg(arguments, const char *); *at; at++)
                put(*at);
        } else {
            format++;
            put_number(va_arg(arguments, size_t));
        }
    }
}

int printf(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    put_format(format, arguments);
    va_end(arguments);
    return 0;
}

int fprintf(void *stream, const char *format, ...)
{
    va_list arguments;

    (void)stream;
    va_start(arguments, format);
    put_format(format, arguments);
    va_end(arguments);
    return 0;
}
