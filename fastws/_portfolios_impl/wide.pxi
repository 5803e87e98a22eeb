# Exact arithmetic in 128 bits, every step of which says when its result does not fit.

cdef extern from *:
    """
    typedef __int128 fastws_wide;
    typedef unsigned __int128 fastws_magnitude;

    static inline fastws_magnitude fastws_magnitude_of(fastws_wide value) {
        return value < 0 ? 0 - (fastws_magnitude)value : (fastws_magnitude)value;
    }

    static inline int fastws_add(fastws_wide* sum, fastws_wide value) {
        fastws_wide out;
        if (__builtin_add_overflow(*sum, value, &out)) return -1;
        *sum = out;
        return 0;
    }

    static inline int fastws_subtract(fastws_wide minuend, fastws_wide value, fastws_wide* out) {
        return __builtin_sub_overflow(minuend, value, out) ? -1 : 0;
    }

    static inline int fastws_multiply(int64_t quantity, fastws_wide price, fastws_wide* out) {
        fastws_magnitude magnitude, low, high;
        uint64_t factor;
        if (price == (int64_t)price) {
            *out = (fastws_wide)quantity * (int64_t)price;
            return 0;
        }
        magnitude = fastws_magnitude_of(price);
        factor = quantity < 0 ? 0 - (uint64_t)quantity : (uint64_t)quantity;
        low = (fastws_magnitude)(uint64_t)magnitude * factor;
        high = (magnitude >> 64) * factor + (low >> 64);
        if (high >> 63) return -1;
        magnitude = (high << 64) | (uint64_t)low;
        *out = (quantity < 0) != (price < 0) ? (fastws_wide)(0 - magnitude) : (fastws_wide)magnitude;
        return 0;
    }

    static inline int fastws_signed(fastws_magnitude magnitude, int is_negative, int64_t* out) {
        if (magnitude > INT64_MAX) return -1;
        *out = is_negative ? -(int64_t)magnitude : (int64_t)magnitude;
        return 0;
    }

    static inline int fastws_round(fastws_wide value, int n_digits, int64_t* out) {
        fastws_magnitude power = 1;
        while (n_digits-- > 0) power *= 10;
        return fastws_signed((fastws_magnitude_of(value) + power / 2) / power, value < 0, out);
    }

    static inline int fastws_percent(fastws_wide part, fastws_wide whole, int64_t* out) {
        fastws_magnitude magnitude = fastws_magnitude_of(part), divisor = fastws_magnitude_of(whole);
        if (divisor == 0) {
            *out = 0;
            return 0;
        }
        if (magnitude > ((fastws_magnitude)1 << 127) / 20000) return -1;
        return fastws_signed((magnitude * 20000 + divisor) / divisor / 2, part < 0, out);
    }

    static inline int64_t fastws_high(fastws_wide value) { return (int64_t)(value >> 64); }
    static inline uint64_t fastws_low(fastws_wide value) { return (uint64_t)value; }
    """
    # 128 bits, whatever Cython is told here: it never converts one.
    ctypedef long long wide "fastws_wide"
    # These return 0, or -1 when the result does not fit; `sum` is as before then, and `out` means nothing.
    int add "fastws_add" (wide* sum, wide value) noexcept nogil
    int subtract "fastws_subtract" (wide minuend, wide value, wide* out) noexcept nogil
    int multiply "fastws_multiply" (int64_t quantity, wide price, wide* out) noexcept nogil
    # value / 10**n_digits, half away from zero.
    int round_wide "fastws_round" (wide value, int n_digits, int64_t* out) noexcept nogil
    # 10,000 * part / abs(whole), half away from zero; 0 when `whole` is.
    int hundredths "fastws_percent" (wide part, wide whole, int64_t* out) noexcept nogil
    int64_t high_half "fastws_high" (wide value) noexcept nogil
    uint64_t low_half "fastws_low" (wide value) noexcept nogil


cdef inline object wide_to_python(wide value):
    return (<object>high_half(value) << 64) | <object>low_half(value)


cdef inline int add_product(wide* sum, int64_t quantity, wide price) noexcept nogil:
    """Add quantity * price; -1, and nothing added, when something does not fit."""
    cdef wide product = 0
    if multiply(quantity, price, &product) != 0:
        return -1
    return add(sum, product)
