/* The type Image: an open JPEG for Python. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    PyObject_HEAD
    aj_image image;
} ImageObject;

static module_state *state_of(PyObject *self)
{
    PyObject *type = (PyObject *)Py_TYPE(self);

    return PyType_GetModuleState((PyTypeObject *)type);
}

PyObject *new_image(module_state *state, aj_image *image)
{
    PyTypeObject *type = (PyTypeObject *)state->image_type;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    ImageObject *made = (ImageObject *)allocate(type, 0);

    if (made == NULL)
        aj_close(image);
    else
        made->image = *image;
    return (PyObject *)made;
}

static void image_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    ImageObject *object = (ImageObject *)self;

    Py_BEGIN_ALLOW_THREADS
    aj_close(&object->image);
    Py_END_ALLOW_THREADS
    release(self);
    Py_DECREF(type);
}

static PyObject *image_turned(PyObject *self, PyObject *args)
{
    ImageObject *object = (ImageObject *)self;
    int transpose, down, across;
    char message[AJ_MESSAGE];
    aj_image turned;
    aj_status status;

    if (!PyArg_ParseTuple(args, "ppp:turned", &transpose, &down, &across))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = aj_turn(&object->image, transpose, down, across, &turned, message);
    Py_END_ALLOW_THREADS
    return status == AJ_OK ? new_image(state_of(self), &turned) : fail(state_of(self), status, message);
}

static PyObject *image_plane(PyObject *self, PyObject *args)
{
    ImageObject *object = (ImageObject *)self;
    const aj_plane *plane;
    int component;

    if (!PyArg_ParseTuple(args, "i:plane", &component))
        return NULL;
    if (component < 0 || component >= object->image.components)
        return PyErr_Format(PyExc_IndexError, "there is no component %d", component);
    plane = &object->image.planes[component];
    return Py_BuildValue("(Niin)", PyLong_FromVoidPtr(plane->blocks), plane->rows, plane->columns,
                         (Py_ssize_t)(plane->stride * AJ_BLOCK * sizeof(int16_t)));
}

static PyObject *image_table(PyObject *self, PyObject *args)
{
    ImageObject *object = (ImageObject *)self;
    int component;

    if (!PyArg_ParseTuple(args, "i:table", &component))
        return NULL;
    if (component < 0 || component >= object->image.components)
        return PyErr_Format(PyExc_IndexError, "there is no component %d", component);
    return PyBytes_FromStringAndSize((const char *)object->image.planes[component].table,
                                     sizeof object->image.planes[component].table);
}

/* Reads a sampling, and refuses one that the chrominance cannot be brought to. */
static int sampling_of(PyObject *self, int across, int down)
{
    ImageObject *object = (ImageObject *)self;

    if (aj_can_resample(&object->image, across, down))
        return 1;
    PyErr_SetString(state_of(self)->unsupported, "the chrominance would have to be interpolated");
    return 0;
}

static PyObject *image_resamples(PyObject *self, PyObject *args)
{
    int across, down;

    if (!PyArg_ParseTuple(args, "ii:resamples", &across, &down))
        return NULL;
    return PyBool_FromLong(aj_can_resample(&((ImageObject *)self)->image, across, down));
}

static PyObject *image_dequantised(PyObject *self, PyObject *args)
{
    ImageObject *object = (ImageObject *)self;
    int component, across, down, rows, columns;
    PyObject *found;
    float *values;

    if (!PyArg_ParseTuple(args, "iii:dequantised", &component, &across, &down) || !sampling_of(self, across, down))
        return NULL;
    if (component < 0 || component >= object->image.components)
        return PyErr_Format(PyExc_IndexError, "there is no component %d", component);
    aj_shape(&object->image, component, across, down, &rows, &columns);
    found = new_floats((Py_ssize_t)rows * columns * AJ_BLOCK, &values);
    if (found == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    aj_dequantise(&object->image, component, across, down, values);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("(Nii)", found, rows, columns);
}

static PyObject *image_bands(PyObject *self, PyObject *args)
{
    ImageObject *object = (ImageObject *)self;
    int across, down, i, components = object->image.components;
    double sums[3][2][AJ_BLOCK];

    if (!PyArg_ParseTuple(args, "ii:bands", &across, &down) || !sampling_of(self, across, down))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (i = 0; i < components; i++)
        aj_bands(&object->image, i, across, down, sums[i][0], sums[i][1]);
    Py_END_ALLOW_THREADS
    return PyBytes_FromStringAndSize((const char *)sums, (Py_ssize_t)components * (Py_ssize_t)sizeof sums[0]);
}

/* Where the blocks of a grid begin, in pixels. */
typedef struct {
    const int32_t *tops, *lefts;
    Py_ssize_t rows, columns;
} places;

/* From bytes, of which the sizes are counts then; 0 with an exception where a block begins outside the image. */
static int check_places(const aj_image *image, places *found)
{
    Py_ssize_t i;

    found->rows /= (Py_ssize_t)sizeof(int32_t);
    found->columns /= (Py_ssize_t)sizeof(int32_t);
    if (found->rows > 4096 || found->columns > 4096) {
        PyErr_SetString(PyExc_ValueError, "a grid has at most 4096 rows and columns");
        return 0;
    }
    for (i = 0; i < found->rows + found->columns; i++) {
        int32_t start = i < found->rows ? found->tops[i] : found->lefts[i - found->rows];
        if (start < 0 || start >= (i < found->rows ? image->height : image->width)) {
            PyErr_SetString(PyExc_ValueError, "a block of the grid begins outside the image");
            return 0;
        }
    }
    return 1;
}

static PyObject *image_grid(PyObject *self, PyObject *args)
{
    const aj_image *image = &((ImageObject *)self)->image;
    places at;
    float *values;
    PyObject *found;
    int done;

    if (!PyArg_ParseTuple(args, "y#y#:grid", &at.tops, &at.rows, &at.lefts, &at.columns) || !check_places(image, &at))
        return NULL;
    found = new_floats(AJ_BLOCK * 3 * at.rows * at.columns, &values);
    if (found == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    done = aj_grid(image, at.tops, (int)at.rows, at.lefts, (int)at.columns, values);
    Py_END_ALLOW_THREADS
    return filled(found, done);
}

/* What `grid` gives, summed up at once. */
static PyObject *image_summary(PyObject *self, PyObject *args)
{
    const aj_image *image = &((ImageObject *)self)->image;
    places at;
    aj_averages how;
    size_t blocks;
    float *grid, *values;
    PyObject *arrays, *found;
    int done;

    if (!PyArg_ParseTuple(args, "y#y#O!:summary", &at.tops, &at.rows, &at.lefts, &at.columns, &PyTuple_Type, &arrays) ||
        !check_places(image, &at))
        return NULL;
    blocks = (size_t)at.rows * (size_t)at.columns;
    if (blocks == 0) {
        PyErr_SetString(PyExc_ValueError, "there is no block to sum up");
        return NULL;
    }
    if (!averages_of(arrays, (Py_ssize_t)blocks, &how))
        return NULL;
    found = new_floats(aj_summary_size(&how), &values);
    if (found == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    grid = malloc(AJ_BLOCK * 3 * blocks * sizeof *grid);
    done = grid != NULL && aj_grid(image, at.tops, (int)at.rows, at.lefts, (int)at.columns, grid) &&
           aj_summarise(grid, blocks, &how, values);
    free(grid);
    Py_END_ALLOW_THREADS
    return filled(found, done);
}

static int steps_of(const char *bytes, Py_ssize_t size, uint16_t *steps)
{
    int k;

    if (size != AJ_BLOCK) {
        PyErr_SetString(PyExc_ValueError, "a table has 64 steps of one byte");
        return 0;
    }
    for (k = 0; k < AJ_BLOCK; k++) {
        steps[k] = (uint8_t)bytes[k];
        if (steps[k] == 0) {
            PyErr_SetString(PyExc_ValueError, "a step is at least 1");
            return 0;
        }
    }
    return 1;
}

static PyObject *image_write(PyObject *self, PyObject *args)
{
    ImageObject *object = (ImageObject *)self;
    const char *luma, *chroma, *segments, *comment;
    Py_ssize_t luma_size, chroma_size, segments_size, comment_size;
    aj_encoding encoding;
    aj_status status;
    char message[AJ_MESSAGE];
    uint8_t *file;
    size_t size;
    PyObject *written;

    memset(&encoding, 0, sizeof encoding);
    if (!PyArg_ParseTuple(args, "y#y#fiippy#y#ii:write", &luma, &luma_size, &chroma, &chroma_size, &encoding.rounding,
                          &encoding.across, &encoding.down, &encoding.optimize, &encoding.progressive, &segments,
                          &segments_size, &comment, &comment_size, &encoding.dots_across, &encoding.dots_down))
        return NULL;
    if (!steps_of(luma, luma_size, encoding.luma) || !steps_of(chroma, chroma_size, encoding.chroma))
        return NULL;
    if (!(encoding.rounding >= 0.0f && encoding.rounding <= 0.5f)) {
        PyErr_SetString(PyExc_ValueError, "rounding is from 0 to 0.5");
        return NULL;
    }
    if (comment_size > 65533) {
        PyErr_SetString(PyExc_ValueError, "a comment has at most 65533 bytes");
        return NULL;
    }
    encoding.segments = (const uint8_t *)segments;
    encoding.segments_size = (size_t)segments_size;
    encoding.comment = (const uint8_t *)comment;
    encoding.comment_size = (size_t)comment_size;
    Py_BEGIN_ALLOW_THREADS
    status = aj_write(&object->image, &encoding, &file, &size, message);
    Py_END_ALLOW_THREADS
    if (status != AJ_OK)
        return fail(state_of(self), status, message);
    written = PyBytes_FromStringAndSize((const char *)file, (Py_ssize_t)size);
    free(file);
    return written;
}

static PyObject *image_number(PyObject *self, void *which)
{
    const aj_image *image = &((ImageObject *)self)->image;
    const int numbers[] = {image->width, image->height, image->components, image->by_libjpeg};

    return PyLong_FromLong(numbers[(intptr_t)which]);
}

static PyObject *image_sampling(PyObject *self, void *unused)
{
    const aj_image *image = &((ImageObject *)self)->image;
    const aj_plane *last = &image->planes[image->components - 1];

    (void)unused;
    return Py_BuildValue("(ii)", last->down, last->across);
}

static PyMethodDef image_methods[] = {
    {"turned", image_turned, METH_VARARGS, "turned(transpose, down, across) -> Image"},
    {"plane", image_plane, METH_VARARGS, "plane(component) -> (address, rows, columns, bytes from row to row)"},
    {"table", image_table, METH_VARARGS, "table(component) -> 64 steps of 2 bytes"},
    {"resamples", image_resamples, METH_VARARGS, "resamples(across, down) -> whether the chrominance can be brought there"},
    {"dequantised", image_dequantised, METH_VARARGS,
     "dequantised(component, across, down) -> (float32s, rows, columns)"},
    {"bands", image_bands, METH_VARARGS, "bands(across, down) -> doubles: components x (sums, squares) x 64"},
    {"grid", image_grid, METH_VARARGS, "grid(tops, lefts) -> float32s: 64 x 3 x blocks"},
    {"summary", image_summary, METH_VARARGS, "summary(tops, lefts, averages) -> of that grid; see the module's"},
    {"write", image_write, METH_VARARGS,
     "write(luma, chroma, rounding, across, down, optimize, progressive, segments, comment, dpi across, down) -> bytes"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef image_attributes[] = {
    {"width", image_number, NULL, "pixels", (void *)0},
    {"height", image_number, NULL, "pixels", (void *)1},
    {"components", image_number, NULL, "1 or 3", (void *)2},
    {"by_libjpeg", image_number, NULL, "1 where libjpeg decoded it, 0 where the core's own decoder did", (void *)3},
    {"sampling", image_sampling, NULL, "of the chrominance: down, across", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot image_slots[] = {
    {Py_tp_dealloc, image_dealloc},
    {Py_tp_methods, image_methods},
    {Py_tp_getset, image_attributes},
    {Py_tp_doc, "The DCT coefficients of a JPEG; made by open."},
    {0, NULL},
};

PyType_Spec image_spec = {
    .name = "beam_adacompress.jpeg._native.Image",
    .basicsize = sizeof(ImageObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = image_slots,
};
