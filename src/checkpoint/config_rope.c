/* config_rope.c - rope's frequencies, to the bit as Hugging Face computes them.
 *
 * Everything per lane is float32, in that order of operations: computing in double and rounding
 * differs in a quarter of the entries, 2.4e-3 rad at position 40960 (FACTS 2.2). The bounds of
 * YaRN's ramp are Python floats there, so double here. */
#include <math.h>

#include "checkpoint/config.h"

/* The lane that turns `rotations` times within the original context. */
static double correction_dim(const struct model_config *cfg, double rotations)
{
    const double pi = 3.14159265358979323846;

    return cfg->head_dim * log(cfg->rope.original_max / (rotations * 2.0 * pi)) /
           (2.0 * log(cfg->rope_theta));
}

void config_yarn_range(const struct model_config *cfg, double *low, double *high)
{
    double l = correction_dim(cfg, cfg->rope.beta_fast);
    double h = correction_dim(cfg, cfg->rope.beta_slow);

    if (cfg->rope.truncate) {
        l = floor(l);
        h = ceil(h);
    }
    l = fmax(l, 0.0);
    h = fmin(h, cfg->head_dim - 1);
    if (l == h)
        h += 0.001;
    *low = l;
    *high = h;
}

static float clamp_unit(float x)
{
    return x < 0.0f ? 0.0f : x > 1.0f ? 1.0f : x;
}

static float yarn_blend(const struct model_config *cfg, float power, int i, double low,
                        double high)
{
    float ramp = clamp_unit(((float)i - (float)low) / (float)(high - low));
    float keep = 1.0f - ramp;
    float stretched = 1.0f / ((float)cfg->rope.factor * power);

    return stretched * (1.0f - keep) + 1.0f / power * keep;
}

void config_rope_inv_freq(const struct model_config *cfg, float *inv_freq,
                          float *attention_factor)
{
    double low = 0.0, high = 1.0;

    if (cfg->rope.yarn)
        config_yarn_range(cfg, &low, &high);
    for (int i = 0; i < cfg->head_dim / 2; i++) {
        float power = powf((float)cfg->rope_theta, (float)(2 * i) / (float)cfg->head_dim);

        inv_freq[i] = cfg->rope.yarn ? yarn_blend(cfg, power, i, low, high) : 1.0f / power;
    }
    *attention_factor = cfg->rope.yarn ? (float)cfg->rope.attention_factor : 1.0f;
}
