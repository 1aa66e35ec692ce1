// PCRE2 without its JIT, which nothing here calls: patterns come from model directories, and no memory of this program is both written and run.
// The distribution's static library would bring the compiler all the same (224 KB), because these functions of it are mentioned where a
// compiled pattern would be run and freed. No pattern is ever compiled, so none is reached (the first, Debian's, would ask whether one is). Included by regex.cpp, after
// pcre2.h, where meson.build found that it fits.

extern "C" {

int _pcre2_jit_check_exec_8(void*, uint32_t) { return 0; }
int pcre2_jit_match_8(const pcre2_code*, PCRE2_SPTR, PCRE2_SIZE, PCRE2_SIZE, uint32_t, pcre2_match_data*, pcre2_match_context*) { std::abort(); }
void _pcre2_jit_free_8(void*, void*) { std::abort(); }

}  // extern "C"
