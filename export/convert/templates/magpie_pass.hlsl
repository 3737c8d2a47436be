{% set read = "srkd_%d" % (number - 1) if number > 1 else "INPUT" %}
{% set write = "OUTPUT" if is_last else "srkd_%d" % number %}
//!PASS {{ number }}
//!DESC {{ name }}: convolution {{ number }} of {{ chain.convolutions | length }}, {{ conv.in_channels }} to {{ conv.out_channels }} channels
//!IN {{ read }}{{ ", INPUT" if is_last and number > 1 }}
//!OUT {{ write }}
//!BLOCK_SIZE {{ threads[0] * area[0] }}, {{ threads[1] * area[1] }}
//!NUM_THREADS {{ threads[0] }}, {{ threads[1] }}, 1
#define READ(at) {{ read }}.Load(int3(at, 0))
#define STORE(at, texel) {{ write }}[at] = texel
{% include "compute.jinja" %}
void Pass{{ number }}(uint2 blockStart, uint3 threadId) {
    convolve(ivec2(blockStart / uint2({{ area[0] }}, {{ area[1] }})), ivec2(threadId.xy), ivec2(GetInputSize()));
}

