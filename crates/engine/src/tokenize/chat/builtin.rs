//! Built-in templates by name, for models without a template. Formats as published; Mistral's are checked against the ids of
//! `mistral-common`.

/// Names of the built-in templates. Mistral's serve both its SentencePiece and its tekken vocabularies.
pub const NAMES: [&str; 6] = ["chatml", "llama3", "mistral-v1", "mistral-v2", "mistral-v3", "mistral-v7"];

/// The source of a built-in template.
pub(super) fn source(name: &str) -> Option<&'static str> {
    match name {
        "chatml" => Some(CHATML),
        "llama3" => Some(LLAMA3),
        "mistral-v1" => Some(MISTRAL_V1),
        "mistral-v2" => Some(MISTRAL_V2),
        "mistral-v3" => Some(MISTRAL_V3),
        "mistral-v7" => Some(MISTRAL_V7),
        _ => None,
    }
}

/// Qwen, SmolLM2 and many others.
const CHATML: &str = r"
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}";

/// Llama 3, without its tools.
const LLAMA3: &str = r"
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\n\n' ~ message.content.strip() ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}";

/// The brackets are plain text; system messages go into the first user message.
const MISTRAL_V1: &str = r"
{{- bos_token }}
{%- set ns = namespace(system='', first=true) %}
{%- for message in messages if message.role == 'system' %}
    {%- set ns.system = ns.system ~ message.content ~ '\n\n' %}
{%- endfor %}
{%- if tools %}
    {{- raise_exception('this format (mistral-v1) has no tools') }}
{%- endif %}
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' ~ (ns.system if ns.first else '') ~ message.content ~ ' [/INST]' }}
        {%- set ns.first = false %}
    {%- elif message.role == 'assistant' and not message.tool_calls %}
        {{- ' ' ~ message.content ~ eos_token }}
    {%- else %}
        {{- raise_exception('this format (mistral-v1) has no tools') }}
    {%- endif %}
{%- endfor %}";

/// The brackets are control tokens; system messages and tools go to the last user message, and earlier calls are
/// omitted.
const MISTRAL_V2: &str = r"
{{- bos_token }}
{%- set ns = namespace(system='', last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = ns.system ~ message.content ~ '\n\n' %}
    {%- elif message.role == 'user' %}
        {%- set ns.last = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set last = loop.index0 == ns.last %}
    {%- set past = loop.index0 < ns.last %}
    {%- if message.role == 'user' %}
        {%- if last and tools %}
            {{- '[AVAILABLE_TOOLS]' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' ~ (ns.system if last else '') ~ message.content ~ '[/INST]' }}
    {%- elif message.role == 'assistant' and message.tool_calls %}
        {%- if not past %}
            {%- set calls = namespace(list=[]) %}
            {%- for call in message.tool_calls %}
                {%- set arguments = call.function.arguments | json_or_text %}
                {%- set calls.list = calls.list + [{'name': call.function.name, 'arguments': arguments}] %}
            {%- endfor %}
            {{- '[TOOL_CALLS]' ~ (calls.list | tojson) ~ eos_token }}
        {%- endif %}
    {%- elif message.role == 'assistant' %}
        {{- message.content.rstrip(' ') ~ eos_token }}
    {%- elif message.role == 'tool' and not past %}
        {%- set result = {'name': message.name, 'content': message.content | json_or_text} %}
        {{- '[TOOL_RESULTS]' ~ ([result] | tojson) ~ '[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}";

/// As v2, but every call is kept and has its id.
const MISTRAL_V3: &str = r"
{{- bos_token }}
{%- set ns = namespace(system='', last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = ns.system ~ message.content ~ '\n\n' %}
    {%- elif message.role == 'user' %}
        {%- set ns.last = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set last = loop.index0 == ns.last %}
    {%- if message.role == 'user' %}
        {%- if last and tools %}
            {{- '[AVAILABLE_TOOLS]' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' ~ (ns.system if last else '') ~ message.content ~ '[/INST]' }}
    {%- elif message.role == 'assistant' and message.tool_calls %}
        {%- set calls = namespace(list=[]) %}
        {%- for call in message.tool_calls %}
            {%- set arguments = call.function.arguments | json_or_text %}
            {%- set calls.list = calls.list + [{'name': call.function.name, 'arguments': arguments, 'id': call.id}] %}
        {%- endfor %}
        {{- '[TOOL_CALLS]' ~ (calls.list | tojson) ~ eos_token }}
    {%- elif message.role == 'assistant' %}
        {{- message.content.rstrip(' ') ~ eos_token }}
    {%- elif message.role == 'tool' %}
        {%- set result = {'content': message.content | json_or_text, 'call_id': message.tool_call_id} %}
        {{- '[TOOL_RESULTS]' ~ (result | tojson) ~ '[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}";

/// System messages have brackets of their own, and tool results are text.
const MISTRAL_V7: &str = r"
{{- bos_token }}
{%- set ns = namespace(last=-1) %}
{%- for message in messages if message.role == 'user' %}
    {%- set ns.last = ns.last + 1 %}
{%- endfor %}
{%- set ns.user = -1 %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- '[SYSTEM_PROMPT]' ~ message.content ~ '[/SYSTEM_PROMPT]' }}
    {%- elif message.role == 'user' %}
        {%- set ns.user = ns.user + 1 %}
        {%- if ns.user == ns.last and tools %}
            {{- '[AVAILABLE_TOOLS]' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' ~ message.content ~ '[/INST]' }}
    {%- elif message.role == 'assistant' %}
        {{- message.content.rstrip(' ') }}
        {%- if message.tool_calls %}
            {%- set calls = namespace(list=[]) %}
            {%- for call in message.tool_calls %}
                {%- set arguments = call.function.arguments | json_or_text %}
                {%- set calls.list = calls.list + [{'name': call.function.name, 'arguments': arguments, 'id': call.id}] %}
            {%- endfor %}
            {{- '[TOOL_CALLS]' ~ (calls.list | tojson) }}
        {%- endif %}
        {{- eos_token }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS]' ~ message.tool_call_id ~ '[TOOL_CONTENT]' ~ message.content ~ '[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}";
