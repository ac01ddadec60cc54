//! Tests of machines: a table for each sentence of DESIGN.md 3 "Machines, exactly".

mod order;
