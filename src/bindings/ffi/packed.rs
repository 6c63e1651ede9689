//! A Python object or a box, in one word. A queue holds many objects and few boxes; a tag beside
//! the pointer would double the size of its entries.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use pyo3::prelude::*;

/// The lowest bit of the word. It is free, since objects and boxes are aligned to more.
const BOXED: usize = 1;

/// Owns a `Py<T>` or a `Box<B>`.
pub(crate) struct Packed<T, B> {
    word: NonNull<u8>,
    owns: PhantomData<(Py<T>, Box<B>)>,
}

/// The content of a [`Packed`].
pub(crate) enum Unpacked<T, B> {
    Object(Py<T>),
    Boxed(Box<B>),
}

// SAFETY: it is either an object or a box, and both may go to another thread.
unsafe impl<T, B: Send> Send for Packed<T, B> {}

impl<T, B> Packed<T, B> {
    pub(crate) fn object(object: Py<T>) -> Self {
        const { assert!(align_of::<pyo3::ffi::PyObject>() > BOXED) };
        let object = ManuallyDrop::new(object);
        Self::new(object.as_ptr().cast())
    }

    pub(crate) fn boxed(content: Box<B>) -> Self {
        const { assert!(align_of::<B>() > BOXED) };
        let content = Box::into_raw(content).cast::<u8>();
        Self::new(content.map_addr(|address| address | BOXED))
    }

    fn new(word: *mut u8) -> Self {
        Self {
            // SAFETY: the pointers of an object and of a box are never null.
            word: unsafe { NonNull::new_unchecked(word) },
            owns: PhantomData,
        }
    }

    fn is_boxed(&self) -> bool {
        self.word.addr().get() & BOXED != 0
    }

    fn content(&self) -> *mut B {
        let word = self.word.as_ptr();
        word.map_addr(|address| address & !BOXED).cast()
    }

    /// The content, in place.
    pub(crate) fn look(&self) -> Result<&Py<T>, &B> {
        if self.is_boxed() {
            // SAFETY: by its bit, the word came from a box in `boxed`, which this owns.
            Err(unsafe { &*self.content() })
        } else {
            // SAFETY: without the bit, the word is the pointer of a `Py<T>`, which is
            // `repr(transparent)` over one, and which this owns.
            Ok(unsafe { &*(&raw const self.word).cast::<Py<T>>() })
        }
    }

    pub(crate) fn unpack(self) -> Unpacked<T, B> {
        let this = ManuallyDrop::new(self);
        if this.is_boxed() {
            // SAFETY: as in `look`; `this` is not dropped, so the box has one owner.
            Unpacked::Boxed(unsafe { Box::from_raw(this.content()) })
        } else {
            // SAFETY: as in `look`; `this` is not dropped, so the reference has one owner.
            Unpacked::Object(unsafe { (&raw const this.word).cast::<Py<T>>().read() })
        }
    }
}

impl<T, B> Drop for Packed<T, B> {
    fn drop(&mut self) {
        let owned = Self {
            word: self.word,
            owns: PhantomData,
        };
        // The copy owns the content now; unpacking it does not run this `drop` again.
        drop(owned.unpack());
    }
}
