//!MAGPIE EFFECT
//!VERSION 4
//!SORT_NAME srkd {{ name }}

//!TEXTURE
Texture2D INPUT;

//!TEXTURE
//!WIDTH INPUT_WIDTH * {{ passes[-1].scale }}
//!HEIGHT INPUT_HEIGHT * {{ passes[-1].scale }}
Texture2D OUTPUT;

{% for pass in passes[:-1] %}
//!TEXTURE
//!WIDTH INPUT_WIDTH * {{ pass.area[0] }}
//!HEIGHT INPUT_HEIGHT * {{ pass.area[1] }}
//!FORMAT R16G16B16A16_FLOAT
Texture2D srkd_{{ pass.number }};

{% endfor %}
//!COMMON
#define F float
#define V3 float3
#define V4 float4
#define M34 float3x4
#define M4 float4x4
#define ivec2 int2
#define vec3 float3
#define vec4 float4
#define shared groupshared
#define barrier GroupMemoryBarrierWithGroupSync
#define MUL(a, b) mul(b, a)
#define ZERO(kind) ((kind)0)
#define PICTURE(at) INPUT.Load(int3(at, 0))

