//! The contexts (PEP 567) of the tasks of requests: a context variable has the request's id, for
//! records of `logging` and printed lines ([`crate::current_request`]). Tasks and threads that copy the context inherit it.
//!
//! `ContextVar.set()` in each task would cost a small request 6 % of its instructions. Instead, an
//! exchange has a context in which the variable has a cell, and puts the id into the cell. The next
//! exchange uses the context again if it is as it was at first:
//!
//! | references to the context, its mapping and its cell | the next exchange uses |
//! |---|---|
//! | of this module alone | the same context |
//! | of the context's new mapping: the application has set a variable | a new copy of the template |
//! | of another context, a task or a callback, which may outlive the request | a new template and cell |
//!
//! Mappings are immutable: `set()` replaces the mapping of its context. The mapping of a copy is the
//! same object.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use crate::current_request::{RequestCell, context_variable};
use crate::python::reference_count;

/// Creates the contexts.
#[derive(Debug)]
pub(super) struct RequestContexts {
    /// `None` without `log.records`.
    variable: Option<Py<PyAny>>,
    /// The context without a request.
    base: Py<PyAny>,
    /// A task takes the argument `context` (CPython 3.11).
    accepts_context: bool,
}

/// The context of an exchange.
#[derive(Debug)]
pub(super) struct RequestContext {
    /// A context that never changes.
    template: Py<PyAny>,
    cell: Py<RequestCell>,
    /// The mapping of the template, if the contexts that refer to it can be counted.
    mapping: Option<Py<PyAny>>,
    /// A copy of the template for the task; `None` if a task does not take the argument `context`.
    copy: Option<ContextCopy>,
}

/// A copy of a template, and the arguments of a task that runs in it.
#[derive(Debug)]
struct ContextCopy {
    context: Py<PyAny>,
    keywords: Py<PyDict>,
}

impl RequestContexts {
    /// Creates contexts from copies of the current one, with `log.records`. `accepts_context`: tasks
    /// take the argument `context`.
    pub(super) fn new(py: Python<'_>, log_records: bool, accepts_context: bool) -> PyResult<Self> {
        let variable = if log_records { Some(context_variable(py)?.clone_ref(py)) } else { None };
        let base = py.import("contextvars")?.call_method0("copy_context")?.unbind();
        Ok(Self { variable, base, accepts_context })
    }

    /// Returns the context of a new request: `last` if it can be used again. `None` without
    /// `log.records`. `keywords`: the arguments of all tasks.
    pub(super) fn for_request(
        &self,
        py: Python<'_>,
        last: Option<Box<RequestContext>>,
        id: Option<Py<PyString>>,
        keywords: &Bound<'_, PyDict>,
    ) -> PyResult<Option<Box<RequestContext>>> {
        let Some(variable) = &self.variable else { return Ok(None) };
        let reused = match last {
            Some(last) if last.is_unchanged(py) => Some(last),
            Some(last) => last.renew(py)?,
            None => None,
        };
        let context = match reused {
            Some(context) => context,
            None => RequestContext::new(
                variable.bind(py),
                self.base.bind(py),
                self.accepts_context.then_some(keywords),
            )?,
        };
        context.cell.get().set(py, id);
        Ok(Some(context))
    }

    /// Creates the task of a request in its context.
    pub(super) fn create_task<'py>(
        context: Option<&RequestContext>,
        constructor: &Bound<'py, PyAny>,
        coroutine: Bound<'py, PyAny>,
        keywords: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = constructor.py();
        match context {
            Some(RequestContext { copy: Some(copy), .. }) => {
                constructor.call((coroutine,), Some(copy.keywords.bind(py)))
            }
            // The task copies the current context.
            Some(RequestContext { template, .. }) => {
                template.bind(py).getattr(intern!(py, "run"))?.call((constructor, coroutine), Some(keywords))
            }
            None => constructor.call((coroutine,), Some(keywords)),
        }
    }
}

impl RequestContext {
    /// Creates a context, with a copy for the task if there are `keywords` for it.
    fn new(
        variable: &Bound<'_, PyAny>,
        base: &Bound<'_, PyAny>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Box<Self>> {
        let py = base.py();
        let template = base.call_method0(intern!(py, "copy"))?;
        let cell = Bound::new(py, RequestCell::default())?;
        let set = variable.getattr(intern!(py, "set"))?;
        drop(template.call_method1(intern!(py, "run"), (set, &cell))?);
        let mapping = countable_mapping(&template, &cell)?;
        let copy = match keywords {
            Some(keywords) => Some(ContextCopy::new(&template, &keywords.copy()?)?),
            None => None,
        };
        Ok(Box::new(Self { template: template.unbind(), cell: cell.unbind(), mapping, copy }))
    }

    /// Returns whether the context is as it was at first, and nothing else refers to it, to its mapping
    /// or to its cell.
    fn is_unchanged(&self, py: Python<'_>) -> bool {
        // Referred to by the template, by this object, and by the copy.
        let of_mapping = if self.copy.is_some() { 3 } else { 2 };
        self.copy.as_ref().is_none_or(|copy| copy.is_unreferenced(py))
            && self.mapping.as_ref().is_some_and(|mapping| reference_count(mapping, py) == of_mapping)
            // By the root node of the mapping, and by this object. A mapping made from it has another
            // root node.
            && reference_count(&self.cell, py) == 2
    }

    /// Replaces the copy. `None` if a context other than the old copy refers to the cell.
    fn renew(mut self: Box<Self>, py: Python<'_>) -> PyResult<Option<Box<Self>>> {
        match self.copy.take().filter(|copy| copy.is_unreferenced(py) && self.mapping.is_some()) {
            Some(copy) => self.copy = Some(ContextCopy::new(self.template.bind(py), copy.keywords.bind(py))?),
            None => return Ok(None),
        }
        Ok(self.is_unchanged(py).then_some(self))
    }
}

impl ContextCopy {
    /// Copies a template, and puts the copy into the arguments of a task.
    fn new(template: &Bound<'_, PyAny>, keywords: &Bound<'_, PyDict>) -> PyResult<Self> {
        let py = template.py();
        let context = template.call_method0(intern!(py, "copy"))?;
        keywords.set_item(intern!(py, "context"), &context)?;
        Ok(Self { context: context.unbind(), keywords: keywords.clone().unbind() })
    }

    /// Returns whether nothing else refers to the context.
    fn is_unreferenced(&self, py: Python<'_>) -> bool {
        // By this object and by the arguments.
        reference_count(&self.context, py) == 2
    }
}

/// Returns the mapping of a context whose root node refers to the cell. `None` if the cell is in
/// another node, which other mappings could share, or if CPython has changed.
fn countable_mapping(
    template: &Bound<'_, PyAny>,
    cell: &Bound<'_, RequestCell>,
) -> PyResult<Option<Py<PyAny>>> {
    let py = template.py();
    let get_referents = py.import(intern!(py, "gc"))?.getattr(intern!(py, "get_referents"))?;
    let of_type = |object: &Bound<'_, PyAny>, name: &str| -> PyResult<Option<Py<PyAny>>> {
        let referents = get_referents.call1((object,))?.cast_into::<PyList>()?;
        let is_named = |referent: &Bound<'_, PyAny>| referent.get_type().name().is_ok_and(|own| own == name);
        Ok(referents.iter().find(is_named).map(Bound::unbind))
    };
    let Some(mapping) = of_type(template, "hamt")? else { return Ok(None) };
    let Some(root) = of_type(mapping.bind(py), "hamt_bitmap_node")? else { return Ok(None) };
    let entries = get_referents.call1((root,))?.cast_into::<PyList>()?;
    let is_direct = entries.iter().any(|entry| entry.is(cell));
    drop(entries);
    Ok((is_direct && reference_count(&mapping, py) == 2).then_some(mapping))
}
