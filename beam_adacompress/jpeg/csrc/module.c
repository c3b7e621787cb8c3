/* The native core for Python, by the limited API of Python 3.10: one build for all later ones. */
#include "module.h"

#include <jpeglib.h>
#include <stdlib.h>
#include <string.h>

#define TEXT(x) #x
#define TEXT_OF(x) TEXT(x)

PyObject *fail(module_state *state, aj_status status, const char *message)
{
    switch (status) {
    case AJ_NO_MEMORY:
        return PyErr_NoMemory();
    case AJ_TOO_LARGE:
        PyErr_SetString(state->too_large, message);
        break;
    case AJ_DAMAGED:
        PyErr_SetString(state->damaged, message);
        break;
    default:
        PyErr_SetString(state->unsupported, message);
    }
    return NULL;
}

PyObject *new_floats(Py_ssize_t count, float **values)
{
    PyObject *made = PyByteArray_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof **values);

    if (made != NULL)
        *values = (float *)PyByteArray_AsString(made);
    return made;
}

PyObject *filled(PyObject *floats, int done)
{
    if (done)
        return floats;
    Py_DECREF(floats);
    return PyErr_NoMemory();
}

static PyObject *open_jpeg(PyObject *module, PyObject *args)
{
    module_state *state = PyModule_GetState(module);
    PyObject *data;
    long long max_pixels;
    int max_scans, by_libjpeg = 0;
    char *bytes, message[AJ_MESSAGE];
    Py_ssize_t size;
    aj_image image;
    aj_status status;

    if (!PyArg_ParseTuple(args, "SLi|p:open", &data, &max_pixels, &max_scans, &by_libjpeg) ||
        PyBytes_AsStringAndSize(data, &bytes, &size) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = aj_open((const uint8_t *)bytes, (size_t)size, max_pixels, max_scans, by_libjpeg, &image, message);
    Py_END_ALLOW_THREADS
    return status == AJ_OK ? new_image(state, &image) : fail(state, status, message);
}

/* Picture data never holds 0xFFD8FF, and only behind an end marker (0xFFD9) can a film's `ftyp` box stand. */
static int another_begins(const char *at, const char *end)
{
    for (; end - at >= 3; at++) {
        at = memchr(at, 0xFF, (size_t)(end - at) - 2);
        if (at == NULL)
            break;
        if (!memcmp(at, "\xFF\xD8\xFF", 3) || (end - at >= 10 && at[1] == '\xD9' && !memcmp(at + 6, "ftyp", 4)))
            return 1;
    }
    return 0;
}

static PyObject *has_more(PyObject *module, PyObject *args)
{
    PyObject *data;
    char *bytes;
    Py_ssize_t size, start;

    (void)module;
    if (!PyArg_ParseTuple(args, "Sn:has_more", &data, &start) || PyBytes_AsStringAndSize(data, &bytes, &size) < 0)
        return NULL;
    return PyBool_FromLong(another_begins(bytes + (start < 0 ? 0 : start > size ? size : start), bytes + size));
}

static PyObject *tuple_of(const uint16_t *numbers, Py_ssize_t count)
{
    PyObject *made = PyTuple_New(count);
    Py_ssize_t i;

    for (i = 0; made != NULL && i < count; i++) {
        PyObject *number = PyLong_FromLong(numbers[i]);
        if (number == NULL || PyTuple_SetItem(made, i, number) < 0)
            Py_CLEAR(made);
    }
    return made;
}

static PyObject *header(PyObject *module, PyObject *data)
{
    char *bytes;
    Py_ssize_t size;
    size_t scan;
    aj_header found;

    (void)module;
    if (PyBytes_AsStringAndSize(data, &bytes, &size) < 0)
        return NULL;
    scan = aj_read_header((const uint8_t *)bytes, (size_t)size, &found);
    if (scan == 0)
        Py_RETURN_NONE;
    return Py_BuildValue("(iiNN)", found.width, found.height, tuple_of(found.steps, AJ_BLOCK),
                         PyBool_FromLong(another_begins(bytes + scan, bytes + size)));
}

/* Rows of so many floats in some bytes; -1 with an exception where they are not whole, or none. */
static int rows_of(Py_ssize_t size, Py_ssize_t columns, const char *what)
{
    Py_ssize_t row = columns * (Py_ssize_t)sizeof(float);

    if (size >= row && size % row == 0 && size / row <= 4096)
        return (int)(size / row);
    PyErr_Format(PyExc_ValueError, "%s are not whole rows of %zd numbers, at most 4096 of them", what, columns);
    return -1;
}

int averages_of(PyObject *arrays, Py_ssize_t blocks, aj_averages *how)
{
    Py_ssize_t rings, luma, thresholds, luma_cells, chroma_cells, ranks;
    int i;

    if (!PyArg_ParseTuple(arrays, "y#y#y#y#y#y#:averages", &how->of_rings, &rings, &how->of_luma, &luma,
                          &how->of_thresholds, &thresholds, &how->of_luma_cells, &luma_cells, &how->of_chroma_cells,
                          &chroma_cells, &how->of_ranks, &ranks))
        return 0;
    if ((how->rings = rows_of(rings, AJ_BLOCK, "rings")) < 0 ||
        rows_of(luma, 3 * AJ_BLOCK, "weights of luminance") < 0 ||
        (how->thresholds = rows_of(thresholds, AJ_BLOCK, "thresholds")) < 0 ||
        (how->luma_cells = rows_of(luma_cells, blocks, "cells")) < 0 ||
        (how->chroma_cells = rows_of(chroma_cells, blocks, "cells")) < 0 ||
        (how->ranks = rows_of(ranks, 1, "ranks")) < 0)
        return 0;
    for (i = 0; i < how->ranks; i++)
        if (how->of_ranks[i] < 0 || how->of_ranks[i] >= blocks) {
            PyErr_SetString(PyExc_ValueError, "there is no block of such a rank");
            return 0;
        }
    return 1;
}

static PyObject *summary(PyObject *module, PyObject *args)
{
    const char *grid;
    Py_ssize_t size, of_a_block = 3 * AJ_BLOCK * (Py_ssize_t)sizeof(float);
    aj_averages how;
    PyObject *arrays, *found;
    float *values;
    int done;

    (void)module;
    if (!PyArg_ParseTuple(args, "y#O!:summary", &grid, &size, &PyTuple_Type, &arrays))
        return NULL;
    if (size < of_a_block || size % of_a_block) {
        PyErr_SetString(PyExc_ValueError, "a grid is 64 x 3 x blocks");
        return NULL;
    }
    if (!averages_of(arrays, size / of_a_block, &how))
        return NULL;
    found = new_floats(aj_summary_size(&how), &values);
    if (found == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    done = aj_summarise((const float *)grid, (size_t)(size / of_a_block), &how, values);
    Py_END_ALLOW_THREADS
    return filled(found, done);
}

/* Reads an ensemble whose arrays follow from their number of members, families and qualities. */
static int ensemble_of(const Py_ssize_t *sizes, const float **arrays, aj_ensemble *known)
{
    Py_ssize_t features = sizes[0] / 4, members = known->members, neurons = sizes[3] / 4;
    Py_ssize_t actions = (Py_ssize_t)known->families * known->qualities;
    const Py_ssize_t wanted[] = {
        features, features, features * neurons, neurons, neurons * known->families, members * actions,
        features * actions, actions,
    };
    int i, fine = features <= 65536 && neurons <= 65536 && neurons % members == 0;

    for (i = 0; fine && i < 8; i++)
        fine = wanted[i] > 0 && sizes[i] == 4 * wanted[i];
    if (!fine) {
        PyErr_SetString(PyExc_ValueError, "the arrays of an ensemble do not go together");
        return 0;
    }
    known->features = (int)features;
    known->hidden = (int)(neurons / members);
    known->mean = arrays[0];
    known->scale = arrays[1];
    known->w1 = arrays[2];
    known->b1 = arrays[3];
    known->w_ease = arrays[4];
    known->rising = arrays[5];
    known->w_size = arrays[6];
    known->b_size = arrays[7];
    return 1;
}

/* The first of the actions that are worth most, and its worth. */
static int best_of(const float *agreement, const float *size, int actions, float price, float *most)
{
    int best = 0, i;

    *most = agreement[0] - price * size[0];
    for (i = 1; i < actions; i++) {
        float worth = agreement[i] - price * size[i];
        if (worth > *most) {
            *most = worth;
            best = i;
        }
    }
    return best;
}

static PyObject *best(PyObject *module, PyObject *args)
{
    const float *features, *arrays[8];
    Py_ssize_t size, sizes[8];
    aj_ensemble known;
    float price, worth = 0, *predicted;
    int actions, found = 0, done;
    double chance = 0;

    (void)module;
    if (!PyArg_ParseTuple(args, "y#fiiiy#y#y#y#y#y#y#y#:best", &features, &size, &price, &known.members,
                          &known.families, &known.qualities, &arrays[0], &sizes[0], &arrays[1], &sizes[1], &arrays[2],
                          &sizes[2], &arrays[3], &sizes[3], &arrays[4], &sizes[4], &arrays[5], &sizes[5], &arrays[6],
                          &sizes[6], &arrays[7], &sizes[7]))
        return NULL;
    if (known.members < 1 || known.members > 256 || known.families < 1 || known.families > 4096 ||
        known.qualities < 1 || known.qualities > 4096 || size != sizes[0]) {
        PyErr_SetString(PyExc_ValueError, "so many features, members, families or qualities are none of an ensemble");
        return NULL;
    }
    if (!ensemble_of(sizes, arrays, &known))
        return NULL;
    actions = known.families * known.qualities;
    predicted = malloc(2 * (size_t)actions * sizeof *predicted);
    if (predicted == NULL)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    done = aj_predict(&known, features, predicted, predicted + actions);
    Py_END_ALLOW_THREADS
    if (done) {
        found = best_of(predicted, predicted + actions, actions, price, &worth);
        chance = predicted[found];
    }
    free(predicted);
    return done ? Py_BuildValue("(idd)", found, (double)worth, chance) : PyErr_NoMemory();
}

static int add(PyObject *module, const char *name, PyObject **kept, PyObject *value)
{
    if (value == NULL)
        return -1;
    *kept = value;
    Py_INCREF(value);
    if (PyModule_AddObject(module, name, value) < 0) {
        Py_DECREF(value);
        return -1;
    }
    return 0;
}

static int fill_module(PyObject *module)
{
    module_state *state = PyModule_GetState(module);

    if (add(module, "Unsupported", &state->unsupported,
            PyErr_NewException("beam_adacompress.jpeg._native.Unsupported", NULL, NULL)) < 0 ||
        add(module, "TooLarge", &state->too_large,
            PyErr_NewException("beam_adacompress.jpeg._native.TooLarge", NULL, NULL)) < 0 ||
        add(module, "Damaged", &state->damaged,
            PyErr_NewException("beam_adacompress.jpeg._native.Damaged", NULL, NULL)) < 0 ||
        add(module, "Image", &state->image_type, PyType_FromModuleAndSpec(module, &image_spec, NULL)) < 0)
        return -1;
    return PyModule_AddStringConstant(module, "LIBJPEG_TURBO", TEXT_OF(LIBJPEG_TURBO_VERSION));
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);

    Py_VISIT(state->unsupported);
    Py_VISIT(state->too_large);
    Py_VISIT(state->damaged);
    Py_VISIT(state->image_type);
    return 0;
}

static int clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);

    Py_CLEAR(state->unsupported);
    Py_CLEAR(state->too_large);
    Py_CLEAR(state->damaged);
    Py_CLEAR(state->image_type);
    return 0;
}

static PyMethodDef module_methods[] = {
    {"open", open_jpeg, METH_VARARGS, "open(data, max_pixels, max_scans, by_libjpeg=False) -> Image"},
    {"header", header, METH_O, "header(data) -> (width, height, luma steps, has_more), or None; see aj_read_header"},
    {"has_more", has_more, METH_VARARGS, "has_more(data, start) -> whether a picture or a film begins there or behind"},
    {"summary", summary, METH_VARARGS,
     "summary(grid, (rings, luma, thresholds, luma cells, chroma cells, ranks)) -> float32s, see aj_summarise"},
    {"best", best, METH_VARARGS,
     "best(features, price, members, families, qualities, arrays of the ensemble) -> (action, worth, agreement)"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, fill_module},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "beam_adacompress.jpeg._native",
    .m_doc = "JPEGs by their DCT coefficients, over libjpeg-turbo; see csrc/core.h and native.py.",
    .m_size = sizeof(module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = traverse,
    .m_clear = clear,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
