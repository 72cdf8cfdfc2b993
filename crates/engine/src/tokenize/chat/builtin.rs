//! Built-in templates by name, for models without a template. Formats as published; Mistral's are checked against the ids of
//! `mistral-common`.

use std::borrow::Cow;

/// Names of the built-in templates. Mistral's serve both its SentencePiece and its tekken vocabularies.
pub const NAMES: [&str; 13] = [
    "chatml",
    "llama3",
    "mistral-v1",
    "mistral-v2",
    "mistral-v3",
    "mistral-v7",
    "mistral-v11",
    "mistral-v13",
    "mistral-v15",
    "phi3",
    "phi4",
    "glm4",
    "granite",
];

/// The source of a built-in template.
pub(super) fn source(name: &str) -> Option<Cow<'static, str>> {
    let mistral = |version: u32, body: &str| Some(format!("{{%- set version = {version} %}}{body}").into());
    match name {
        "chatml" => Some(CHATML.into()),
        "llama3" => Some(LLAMA3.into()),
        "mistral-v1" => Some(MISTRAL_V1.into()),
        "mistral-v2" => mistral(2, MISTRAL_V2),
        "mistral-v3" => mistral(3, MISTRAL_V2),
        "mistral-v7" => mistral(7, MISTRAL_V7),
        "mistral-v11" => mistral(11, MISTRAL_V11),
        "mistral-v13" => mistral(13, MISTRAL_V11),
        "mistral-v15" => mistral(15, MISTRAL_V11),
        "phi3" => Some(PHI3.into()),
        "phi4" => Some(PHI4.into()),
        "glm4" => Some(GLM4.into()),
        "granite" => Some(GRANITE.into()),
        _ => None,
    }
}

/// The name of the template for the version of one of Mistral's tokenizers.
pub(super) fn of_mistral(version: &str) -> Option<&'static str> {
    let number = |name: &&str| name.strip_prefix("mistral-") == Some(version);
    NAMES.iter().copied().find(|name| number(name))
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

/// Phi-3 and Phi-3.5.
const PHI3: &str = r"
{%- for message in messages %}
    {{- '<|' ~ message.role ~ '|>\n' ~ message.content ~ '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\n' }}
{%- endif %}";

/// Phi-4, but not Phi-4-mini.
const PHI4: &str = r"
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '<|im_sep|>' ~ message.content ~ '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant<|im_sep|>' }}
{%- endif %}";

/// GLM-4, without its tools.
const GLM4: &str = r"
{{- '[gMASK]<sop>' }}
{%- for message in messages %}
    {{- '<|' ~ message.role ~ '|>\n' ~ message.content }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\n' }}
{%- endif %}";

/// Granite 3 and 4, without their tools and the system message that some versions have by default.
const GRANITE: &str = r"
{%- for message in messages %}
    {{- '<|start_of_role|>' ~ message.role ~ '<|end_of_role|>' ~ message.content ~ '<|end_of_text|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_of_role|>assistant<|end_of_role|>' }}
{%- endif %}";

/// The brackets are plain text; system messages go into the first user message.
const MISTRAL_V1: &str = r"
{{- bos_token }}
{%- set ns = namespace(system=[], before='') %}
{%- if tools %}
    {{- raise_exception('this format (mistral-v1) has no tools') }}
{%- endif %}
{%- for message in messages if message.role == 'system' and message.content %}
    {%- set ns.system = ns.system + [message.content] %}
{%- endfor %}
{%- for turn in messages | mistral_turns(version=1) %}
    {%- if turn.role == 'user' %}
        {%- set content = turn.content %}
        {%- if ns.system %}
            {%- set content = ns.system | join('\n\n') ~ '\n\n' ~ content %}
            {%- set ns.system = [] %}
        {%- endif %}
        {{- ns.before ~ '[INST] ' ~ content ~ ' [/INST]' }}
        {%- set ns.before = ' ' %}
    {%- elif turn.role == 'assistant' and not turn.tool_calls %}
        {{- ' ' ~ turn.content ~ eos_token }}
        {%- set ns.before = '' %}
    {%- else %}
        {{- raise_exception('this format (mistral-v1) has no tools') }}
    {%- endif %}
{%- endfor %}";

/// v2 and v3. The brackets are control tokens; system messages and tools go to the last user message. In v2, calls before it
/// are left out, and a call has no id.
const MISTRAL_V2: &str = r"
{{- bos_token }}
{%- set ns = namespace(system=[], last=-1) %}
{%- for message in messages if message.role == 'system' and message.content %}
    {%- set ns.system = ns.system + [message.content] %}
{%- endfor %}
{%- set turns = messages | mistral_turns(version=version) %}
{%- for turn in turns if turn.role == 'user' %}
    {%- set ns.last = turn.index %}
{%- endfor %}
{%- for turn in turns %}
    {%- set last = turn.index == ns.last %}
    {%- set left_out = version == 2 and turn.index < ns.last %}
    {%- if turn.role == 'user' %}
        {%- if last and tools %}
            {{- '[AVAILABLE_TOOLS]' ~ (tools | mistral_tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {%- set content = turn.content %}
        {%- if last and ns.system %}
            {%- set content = ns.system | join('\n\n') ~ '\n\n' ~ content %}
        {%- endif %}
        {{- '[INST]' ~ content ~ '[/INST]' }}
    {%- elif turn.role == 'assistant' and turn.tool_calls %}
        {%- if not left_out %}
            {{- '[TOOL_CALLS]' ~ (turn.tool_calls | tojson) ~ eos_token }}
        {%- endif %}
    {%- elif turn.role == 'assistant' %}
        {{- turn.content ~ eos_token }}
    {%- elif turn.role == 'tool' and version == 2 %}
        {%- if not left_out %}
            {%- set result = {'name': turn.name, 'content': (turn.content or '{}') | json_or_text} %}
            {{- '[TOOL_RESULTS]' ~ ([result] | tojson) ~ '[/TOOL_RESULTS]' }}
        {%- endif %}
    {%- elif turn.role == 'tool' %}
        {%- set result = {'content': (turn.content or '{}') | json_or_text, 'call_id': turn.tool_call_id} %}
        {{- '[TOOL_RESULTS]' ~ (result | tojson) ~ '[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}";

/// System messages have brackets of their own, and tool results are text.
const MISTRAL_V7: &str = r"
{{- bos_token }}
{%- set ns = namespace(last=-1) %}
{%- set turns = messages | mistral_turns(version=7) %}
{%- for turn in turns if turn.role == 'user' %}
    {%- set ns.last = turn.index %}
{%- endfor %}
{%- for turn in turns %}
    {%- if turn.role == 'system' %}
        {{- '[SYSTEM_PROMPT]' ~ turn.content ~ '[/SYSTEM_PROMPT]' }}
    {%- elif turn.role == 'user' %}
        {%- if turn.index == ns.last and tools %}
            {{- '[AVAILABLE_TOOLS]' ~ (tools | mistral_tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' ~ turn.content ~ '[/INST]' }}
    {%- elif turn.role == 'assistant' %}
        {{- turn.content }}
        {%- if turn.tool_calls %}
            {{- '[TOOL_CALLS]' ~ (turn.tool_calls | tojson) }}
        {%- endif %}
        {{- eos_token }}
    {%- elif turn.role == 'tool' %}
        {{- '[TOOL_RESULTS]' ~ turn.tool_call_id ~ '[TOOL_CONTENT]' ~ turn.content ~ '[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}";

/// v11, v13 and v15. Each call has brackets of its own. From v13 on there are thoughts, tools go to the first user message, and
/// calls have no ids; v15 writes the model's settings behind the tools.
const MISTRAL_V11: &str = r"
{{- bos_token }}
{%- set ns = namespace(place=-1, settings={}) %}
{%- set turns = messages | mistral_turns(version=version) %}
{%- for turn in turns if turn.role == 'user' %}
    {%- if version < 13 or ns.place < 0 %}
        {%- set ns.place = turn.index %}
    {%- endif %}
{%- endfor %}
{%- if version >= 15 and model_settings %}
    {%- set ns.settings = model_settings | mistral_settings(effort=reasoning_effort, schema=json_schema) %}
{%- elif reasoning_effort %}
    {{- raise_exception('this model has no reasoning_effort') }}
{%- endif %}
{%- for turn in turns %}
    {%- if turn.role == 'system' %}
        {{- '[SYSTEM_PROMPT]' ~ turn.content ~ '[/SYSTEM_PROMPT]' }}
    {%- elif turn.role == 'user' %}
        {%- if turn.index == ns.place %}
            {%- if tools %}
                {{- '[AVAILABLE_TOOLS]' ~ (tools | mistral_tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}
            {%- endif %}
            {%- if ns.settings %}
                {{- '[MODEL_SETTINGS]' ~ (ns.settings | tojson) ~ '[/MODEL_SETTINGS]' }}
            {%- endif %}
        {%- endif %}
        {{- '[INST]' ~ turn.content ~ '[/INST]' }}
    {%- elif turn.role == 'assistant' %}
        {%- for part in turn.parts %}
            {%- if part.thinking is defined %}
                {{- '[THINK]' ~ part.thinking ~ '[/THINK]' }}
            {%- else %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
        {%- for call in turn.tool_calls %}
            {{- '[TOOL_CALLS]' ~ call.name }}
            {%- if version < 13 and call.id is defined %}
                {{- '[CALL_ID]' ~ call.id }}
            {%- endif %}
            {{- '[ARGS]' ~ (call.arguments | tojson) }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif turn.role == 'tool' and version < 13 %}
        {{- '[TOOL_RESULTS]' ~ turn.tool_call_id ~ '[TOOL_CONTENT]' ~ turn.content ~ '[/TOOL_RESULTS]' }}
    {%- elif turn.role == 'tool' %}
        {{- '[TOOL_RESULTS]' ~ turn.content ~ '[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}";
