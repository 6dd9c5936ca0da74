//! The door between Python and the data plane: the only file that uses pyo3.
#[cfg(feature = "python")]
mod python {
    use pyo3::prelude::*;
    #[pymodule]
    fn _tunstack(_m: &Bound<'_, PyModule>) -> PyResult<()> {
        Ok(())
    }
}
