/* What the files of the Python module share. */
#ifndef ADACOMPRESS_MODULE_H
#define ADACOMPRESS_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core.h"

typedef struct {
    PyObject *unsupported, *too_large, *damaged; /* exceptions */
    PyObject *image_type;
} module_state;

extern PyType_Spec image_spec;

/* Raises what a status stands for, and returns NULL. */
PyObject *fail(module_state *state, aj_status status, const char *message);

/* An Image, which owns the image from then on. */
PyObject *new_image(module_state *state, aj_image *image);

/* Room for so many floats, and where they are; NULL with an exception where there is none. */
PyObject *new_floats(Py_ssize_t count, float **values);

/* Them, if what fills them was done; otherwise there was no memory. */
PyObject *filled(PyObject *floats, int done);

/* Reads the arrays of an aj_averages, which have to be there as long as it is; 0 with an exception where they do not go
 * together. */
int averages_of(PyObject *arrays, Py_ssize_t blocks, aj_averages *how);

#endif
