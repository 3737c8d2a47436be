//!HOOK {{ hook }}
//!DESC {{ title }}
//!BIND {{ read }}
{% if is_last and read != hook %}
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
{% set width, height = threads[0] + 2, threads[1] + 2 %}
shared {{ kind }} tile[{{ width * height }}];
void load(ivec2 corner, ivec2 size) {
    ivec2 first = ivec2(gl_WorkGroupID.xy * gl_WorkGroupSize.xy) - 1;
    for (int i = int(gl_LocalInvocationIndex); i < {{ width * height }}; i += {{ threads[0] * threads[1] }}) {
        ivec2 at = first + ivec2(i % {{ width }}, i / {{ width }});
        bool inside = all(greaterThanEqual(at, ivec2(0))) && all(lessThan(at, size));
        tile[i] = inside ? {{ kind }}(({{ read ~ "_mul * " if number == 1 }}texelFetch({{ read }}_raw, corner + at, 0)).{{ components }})
                         : {{ kind }}(0.0);
    }
}
void hook() {
    ivec2 size = ivec2({{ read }}_size) / ivec2({{ inputs.across }}, {{ inputs.down }});
    ivec2 pixel = ivec2(gl_GlobalInvocationID.xy);
    int p = int(gl_LocalInvocationID.y) * {{ width }} + int(gl_LocalInvocationID.x);
    {{ kind }} t;
{% for group in range(outputs.groups) %}
    V4 s{{ group }} = V4({{ bias(group) }});
{% endfor %}
{% for copy in range(inputs.groups) %}
{% if copy %}
    barrier();
{% endif %}
    load({{ inputs.corner(copy) }}, size);
    barrier();
{% for y in range(3) %}
{% for x in range(3) %}
    t = tile[p + {{ y * width + x }}];
{% for group in range(outputs.groups) %}
    s{{ group }} += {{ matrix }}({{ weights(group, copy, y, x) }}) * t;
{% endfor %}
{% endfor %}
{% endfor %}
{% endfor %}
    if (any(greaterThanEqual(pixel, size))) return;
{% if is_last %}
    vec4 anchor = {{ hook }}_mul * texelFetch({{ hook }}_raw, pixel, 0);
{% for y in range(scale) %}
{% for x in range(scale) %}
{# Pixel shuffle takes feature c·s² + y·s + x. #}
{% set first = y * scale + x %}
{% macro feature(channel) %}s{{ (channel * scale ** 2 + first) // 4 }}.{{ "rgba"[(channel * scale ** 2 + first) % 4] }}{% endmacro %}
{% if channels == 3 %}
{% set value = "vec3(" ~ feature(0) ~ ", " ~ feature(1) ~ ", " ~ feature(2) ~ ")" ~ (" + anchor.rgb" if anchored else "") %}
    imageStore(out_image, pixel * {{ scale }} + ivec2({{ x }}, {{ y }}), vec4(clamp({{ value }}, 0.0, 1.0), anchor.a));
{% else %}
{% set value = "float(" ~ feature(0) ~ ")" ~ (" + anchor.r" if anchored else "") %}
    imageStore(out_image, pixel * {{ scale }} + ivec2({{ x }}, {{ y }}), vec4(clamp({{ value }}, 0.0, 1.0), 0.0, 0.0, 1.0));
{% endif %}
{% endfor %}
{% endfor %}
{% else %}
{% for group in range(outputs.groups) %}
    imageStore(out_image, {{ outputs.corner(group) }} + pixel, vec4(max(s{{ group }}, V4(0.0)){% if slope(group) %} + V4({{ slope(group) }}) * min(s{{ group }}, V4(0.0)){% endif %}));
{% endfor %}
{% endif %}
}
