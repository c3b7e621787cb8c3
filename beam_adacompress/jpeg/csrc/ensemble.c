/* Small networks of one hidden layer, for one image: what the default policy knows, see policy/agreement.py. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

/* found[k] += sum over i < rows of numbers[i] * matrix[i][k] */
AJ_INLINE void add_product(const float *restrict numbers, int rows, const float *restrict matrix, int columns,
                           float *restrict found)
{
    int i, k;

    for (i = 0; i < rows; i++)
        for (k = 0; k < columns; k++)
            found[k] += numbers[i] * matrix[(size_t)i * (size_t)columns + (size_t)k];
}

AJ_INLINE float gelu(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * (x * x * x))));
}

AJ_CLONES static void predict(const aj_ensemble *known, const float *features, float *work, float *agreement,
                              float *size)
{
    int neurons = known->members * known->hidden, actions = known->families * known->qualities, i, k, member;
    float *scaled = work, *hidden = scaled + known->features, *ease = hidden + neurons;

    for (i = 0; i < known->features; i++)
        scaled[i] = aj_clipped((features[i] - known->mean[i]) / known->scale[i], 5.0f);
    memcpy(size, known->b_size, (size_t)actions * sizeof *size);
    add_product(scaled, known->features, known->w_size, actions, size);
    memcpy(hidden, known->b1, (size_t)neurons * sizeof *hidden);
    add_product(scaled, known->features, known->w1, neurons, hidden);
    for (i = 0; i < neurons; i++)
        hidden[i] = gelu(hidden[i]);
    memset(agreement, 0, (size_t)actions * sizeof *agreement);
    for (member = 0; member < known->members; member++) {
        memset(ease, 0, (size_t)known->families * sizeof *ease);
        add_product(hidden + member * known->hidden, known->hidden,
                    known->w_ease + member * known->hidden * known->families, known->families, ease);
        for (i = 0; i < known->families; i++)
            for (k = i * known->qualities; k < (i + 1) * known->qualities; k++)
                agreement[k] += 1.0f / (1.0f + expf(-(ease[i] + known->rising[member * actions + k])));
    }
    for (k = 0; k < actions; k++) {
        agreement[k] /= (float)known->members;
        size[k] = exp2f(size[k]);
    }
}

int aj_predict(const aj_ensemble *known, const float *features, float *agreement, float *size)
{
    int numbers = known->features + known->members * known->hidden + known->families;
    float *work = malloc((size_t)numbers * sizeof *work);

    if (work == NULL)
        return 0;
    predict(known, features, work, agreement, size);
    free(work);
    return 1;
}
