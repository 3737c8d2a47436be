{% set read = "srkd_%d" % (number - 1) if number > 1 else hook %}
//!HOOK {{ hook }}
//!DESC {{ name }}: convolution {{ number }} of {{ chain.convolutions | length }}, {{ conv.in_channels }} to {{ conv.out_channels }} channels
//!BIND {{ read }}
{% if is_last and number > 1 %}
//!BIND {{ hook }}
{% endif %}
{% if not is_last %}
//!SAVE srkd_{{ number }}
//!COMPONENTS 4
{% endif %}
//!WIDTH {{ hook }}.w {{ area[0] }} *
//!HEIGHT {{ hook }}.h {{ area[1] }} *
//!COMPUTE {{ threads[0] * area[0] }} {{ threads[1] * area[1] }} {{ threads[0] }} {{ threads[1] }}
{% if scale > 1 %}
//!WHEN OUTPUT.w {{ hook }}.w 1.2 * > OUTPUT.h {{ hook }}.h 1.2 * > *
{% endif %}
{% if half %}
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : enable
#ifdef GL_EXT_shader_explicit_arithmetic_types_float16
#define F float16_t
#define V3 f16vec3
#define V4 f16vec4
#define M34 f16mat3x4
#define M4 f16mat4
#else
{% endif %}
#define F float
#define V3 vec3
#define V4 vec4
#define M34 mat3x4
#define M4 mat4
{% if half %}
#endif
{% endif %}
#define MUL(a, b) ((a) * (b))
#define ZERO(kind) kind(0.0)
#define PICTURE(at) ({{ hook }}_mul * texelFetch({{ hook }}_raw, at, 0))
#define READ(at) {{ "PICTURE(at)" if number == 1 else "texelFetch(%s_raw, at, 0)" % read }}
#define STORE(at, texel) imageStore(out_image, at, texel)
{% include "compute.jinja" %}
void hook() {
    ivec2 size = ivec2({{ read }}_size) / ivec2({{ inputs.across }}, {{ inputs.down }});
    convolve(ivec2(gl_WorkGroupID.xy * gl_WorkGroupSize.xy), ivec2(gl_LocalInvocationID.xy), size);
}
