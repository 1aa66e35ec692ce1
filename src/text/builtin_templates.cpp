#include "text/builtin_templates.h"

namespace engine {

namespace {

// Contents may be a string, none, or a list of parts of which the text counts.
#define TEXT_MACRO                                                                       \
  "{%- macro text(content) -%}"                                                          \
  "{%- if content is string -%}{{ content }}"                                            \
  "{%- elif content is iterable -%}"                                                     \
  "{%- for part in content -%}{{ part if part is string else part.text }}{%- endfor -%}" \
  "{%- endif -%}"                                                                        \
  "{%- endmacro -%}"

// A system message at the start joins the first user's turn, where the format has no role for it.
#define MERGE_SYSTEM                                                                               \
  "{%- set ns = namespace(system='') -%}"                                                          \
  "{%- set turns = messages -%}"                                                                   \
  "{%- if messages and messages[0].role == 'system' -%}"                                           \
  "{%- set ns.system = text(messages[0].content) | trim ~ '\n\n' -%}"                              \
  "{%- set turns = messages[1:] -%}"                                                               \
  "{%- endif -%}"                                                                                  \
  "{%- for message in turns -%}"                                                                   \
  "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}"                                  \
  "{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}" \
  "{%- endif -%}"                                                                                  \
  "{%- endfor -%}"

constexpr BuiltinTemplate templates[] = {
    {"chatml", TEXT_MACRO "{%- for message in messages -%}"
                          "{{ '<|im_start|>' ~ message.role ~ '\n' ~ text(message.content) ~ '<|im_end|>\n' }}"
                          "{%- endfor -%}"
                          "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"},
    {"llama3", TEXT_MACRO
     "{{- bos_token -}}"
     "{%- for message in messages -%}"
     "{{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\n\n' ~ text(message.content) | trim ~ '<|eot_id|>' "
     "}}"
     "{%- endfor -%}"
     "{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"},
    {"mistral",
     TEXT_MACRO MERGE_SYSTEM "{{- bos_token -}}"
                             "{%- for message in turns -%}"
                             "{%- if message.role == 'user' -%}"
                             "{{ '[INST] ' ~ (ns.system if loop.first else '') ~ text(message.content) ~ ' [/INST]' }}"
                             "{%- else -%}"
                             "{{ ' ' ~ text(message.content) | trim ~ eos_token }}"
                             "{%- endif -%}"
                             "{%- endfor -%}"},
    {"gemma", TEXT_MACRO MERGE_SYSTEM "{{- bos_token -}}"
                                      "{%- for message in turns -%}"
                                      "{{ '<start_of_turn>' ~ ('user' if message.role == 'user' else 'model') ~ '\n' ~ "
                                      "(ns.system if loop.first else '') ~"
                                      " text(message.content) | trim ~ '<end_of_turn>\n' }}"
                                      "{%- endfor -%}"
                                      "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"},
    {"zephyr", TEXT_MACRO "{%- for message in messages -%}"
                          "{{ '<|' ~ message.role ~ '|>\n' ~ text(message.content) ~ eos_token ~ '\n' }}"
                          "{%- endfor -%}"
                          "{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%}"},
    {"raw", TEXT_MACRO "{{- bos_token -}}"
                       "{%- for message in messages -%}"
                       "{{ ('' if loop.first else '\n') ~ text(message.content) }}"
                       "{%- endfor -%}"},
};

}  // namespace

std::span<const BuiltinTemplate> builtin_templates() { return templates; }

}  // namespace engine
