//! The part of libvirt that crate `virt` does not cover: events. All `unsafe` of this crate is in this file.
//!
//! Callbacks run on the event loop's thread and only count up; whoever wakes reads the world again.

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::OnceLock;

use tokio::sync::watch;
use virt::connect::Connect;
use virt::sys;

/// Counts changes. Cheap to clone; may be used from any thread.
pub(super) type Wake = watch::Sender<u64>;

/// How often the event loop looks for a newly added watch. libvirt's own loop wakes by itself; this bounds the
/// damage should it miss one.
const TICK_MS: c_int = 1000;

/// Registers libvirt's event loop and starts its thread, once per process. Must come before any connection.
pub(super) fn start_event_loop() -> Result<(), String> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let start = || {
        virt::error::clear_error_callback();
        virt::event::event_register_default_impl().map_err(|error| error.to_string())?;
        virt::event::event_add_timeout(TICK_MS, |_, _| {}, std::ptr::null_mut())
            .map_err(|error| error.to_string())?;
        let run = || {
            loop {
                if let Err(error) = virt::event::event_run_default_impl() {
                    tracing::error!(%error, "the hypervisor's event loop failed");
                    std::thread::sleep(std::time::Duration::from_secs(1));
                }
            }
        };
        let thread = std::thread::Builder::new().name("libvirt-events".to_owned());
        thread
            .spawn(run)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    STARTED.get_or_init(start).clone()
}

/// Events of a connection, until it is dropped.
pub(super) struct Events {
    connection: Connect,
    registered: Vec<c_int>,
    closing: bool,
}

impl Events {
    /// Counts up on every event of the connection that this hypervisor has.
    #[expect(unsafe_code, reason = "crate virt has no registration of events")]
    pub(super) fn watch(connection: &Connect, wake: &Wake) -> Self {
        let opaque = || Box::into_raw(Box::new(wake.clone())).cast::<c_void>();
        let kinds = [
            (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, erase_lifecycle()),
            (sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, erase_agent()),
            (sys::VIR_DOMAIN_EVENT_ID_GRAPHICS, erase_graphics()),
            // This one has the generic shape itself.
            (sys::VIR_DOMAIN_EVENT_ID_REBOOT, on_reboot as Generic),
        ];
        let mut registered = Vec::new();
        for (kind, callback) in kinds {
            let Ok(kind) = c_int::try_from(kind) else {
                continue;
            };
            let data = opaque();
            // SAFETY: the connection is alive; `callback` has the shape that libvirt documents for `kind`; `data`
            // is a leaked `Box<Wake>`, which only the callbacks and, at the end, `release` use.
            let id = unsafe {
                sys::virConnectDomainEventRegisterAny(
                    connection.as_ptr(),
                    std::ptr::null_mut(),
                    kind,
                    Some(callback),
                    data,
                    Some(release),
                )
            };
            if id >= 0 {
                registered.push(id);
            } else {
                // SAFETY: refused, so libvirt kept nothing and will not release it.
                unsafe { release(data) };
                tracing::debug!(kind, "this hypervisor has no such event");
            }
        }
        let data = opaque();
        // SAFETY: as above; the callback has the type that the binding demands.
        let closing = unsafe {
            sys::virConnectRegisterCloseCallback(
                connection.as_ptr(),
                Some(on_close),
                data,
                Some(release),
            ) == 0
        };
        if !closing {
            // SAFETY: refused, so libvirt kept nothing and will not release it.
            unsafe { release(data) };
        }
        Self {
            connection: connection.clone(),
            registered,
            closing,
        }
    }
}

impl Drop for Events {
    #[expect(unsafe_code, reason = "crate virt has no registration of events")]
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            // SAFETY: the connection is alive and the id was given by it. A failure leaves the callback in place,
            // whose data then lives on.
            let _kept =
                unsafe { sys::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), id) };
        }
        if self.closing {
            // SAFETY: as above.
            let _kept = unsafe {
                sys::virConnectUnregisterCloseCallback(self.connection.as_ptr(), Some(on_close))
            };
        }
    }
}

/// Takes over a descriptor that libvirt opened for us.
#[expect(
    unsafe_code,
    reason = "crate virt hands descriptors out as plain numbers"
)]
pub(super) fn adopt(descriptor: u32) -> Option<OwnedFd> {
    let descriptor = c_int::try_from(descriptor).ok()?;
    // SAFETY: virDomainOpenGraphicsFD returned it just now and gave its ownership to the caller.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
type Lifecycle =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type Agent = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);
type Graphics = unsafe extern "C" fn(
    sys::virConnectPtr,
    sys::virDomainPtr,
    c_int,
    *const sys::virDomainEventGraphicsAddress,
    *const sys::virDomainEventGraphicsAddress,
    *const c_char,
    *const sys::virDomainEventGraphicsSubject,
    *mut c_void,
);

#[expect(
    unsafe_code,
    reason = "libvirt takes callbacks of all shapes through one type"
)]
fn erase_lifecycle() -> Generic {
    // SAFETY: libvirt casts it back to the event's own shape before it calls it (VIR_DOMAIN_EVENT_CALLBACK).
    unsafe { std::mem::transmute::<Lifecycle, Generic>(on_lifecycle) }
}

#[expect(
    unsafe_code,
    reason = "libvirt takes callbacks of all shapes through one type"
)]
fn erase_agent() -> Generic {
    // SAFETY: as for the lifecycle.
    unsafe { std::mem::transmute::<Agent, Generic>(on_agent) }
}

#[expect(
    unsafe_code,
    reason = "libvirt takes callbacks of all shapes through one type"
)]
fn erase_graphics() -> Generic {
    // SAFETY: as for the lifecycle.
    unsafe { std::mem::transmute::<Graphics, Generic>(on_graphics) }
}

extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    _: c_int,
    _: c_int,
    opaque: *mut c_void,
) -> c_int {
    count(opaque);
    0
}

extern "C" fn on_agent(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    _: c_int,
    _: c_int,
    opaque: *mut c_void,
) {
    count(opaque);
}

extern "C" fn on_graphics(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    _: c_int,
    _: *const sys::virDomainEventGraphicsAddress,
    _: *const sys::virDomainEventGraphicsAddress,
    _: *const c_char,
    _: *const sys::virDomainEventGraphicsSubject,
    opaque: *mut c_void,
) {
    count(opaque);
}

extern "C" fn on_reboot(_: sys::virConnectPtr, _: sys::virDomainPtr, opaque: *mut c_void) {
    count(opaque);
}

extern "C" fn on_close(_: sys::virConnectPtr, _: c_int, opaque: *mut c_void) {
    count(opaque);
}

#[expect(
    unsafe_code,
    reason = "C hands our own data back as an untyped pointer"
)]
fn count(opaque: *mut c_void) {
    // SAFETY: every callback is registered with a leaked `Box<Wake>`, which is freed only by `release`, after
    // which libvirt calls back no more.
    let wake = unsafe { &*opaque.cast::<Wake>() };
    wake.send_modify(|changes| *changes = changes.wrapping_add(1));
}

#[expect(
    unsafe_code,
    reason = "C hands our own data back as an untyped pointer"
)]
unsafe extern "C" fn release(opaque: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `Events::watch`, and released once: by libvirt, or by us where it refused.
    drop(unsafe { Box::from_raw(opaque.cast::<Wake>()) });
}
