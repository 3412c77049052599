// What every kernel is given: one struct by value. `launches.py` has the same fields as a NumPy
// dtype, in this order; a test holds their sizes and offsets equal.
//
// A batch is `rows` examples of `classes` classes each. Rows that lie one after another are found
// at row * classes. With STRIDED, segments say where rows lie whose class axis is not the last:
// element (row, c) of a segment is at offset + outer * classes * inner + c * inner + column, with
// outer = (row - first_row) / inner and column = (row - first_row) % inner.

#pragma once

struct Segment {
    long long first_row;  // of the batch
    long long offset;     // elements into logits, labels and gradients
    long long inner;      // elements from one class to the next
};

struct Arguments {
    const void* logits;           // [rows, classes], LOGIT; may be where `dense` is
    void* dense;                  // gradient to the logits, or output: as logits; null: not wanted
    const void* labels;           // LABEL: as logits, or with LABEL_TABLE [distributions, classes]
    void* grad_labels;            // as logits, in LABEL; with LABEL_TABLE [rows, classes] in Real
    const int* ids;               // [rows]; with LABEL_TABLE the distribution of each row
    const void* class_weight;     // [classes], Real
    const void* pos_weight;       // [rows, classes], Real
    const double* weight;         // [rows], of each loss; null: weight_of_all
    const double* scale;          // [rows], of each gradient; null: scale_of_all
    const unsigned char* flags;   // [rows], NO_LOSS and NO_GRADIENT; null: none
    void* per_example;            // [rows], Real
    void* logsumexp;              // [rows], Real; for this and the next two: null where off
    long long* argmax;            // [rows]
    void* entropy;                // [rows], Real
    unsigned long long* fault;    // first row whose id is out of range, or what was there before
    const Segment* segments;      // by first_row, the first of them 0; only with STRIDED
    long long segment_count;
    long long rows;
    long long classes;
    double weight_of_all;
    double scale_of_all;
    double label_smoothing;       // options of the loss; those that are off hold any number
    double z_loss;
    double softcap;
    double temperature;
    double gamma;
    double alpha;                 // with sigmoid, less than 0 where there is none
    double epsilon;
    double factor;                // what the loss is multiplied by: KL's temperature squared
};

constexpr unsigned char NO_LOSS = 1;      // the loss is 0 whatever the logits hold
constexpr unsigned char NO_GRADIENT = 2;  // the same for gradients
