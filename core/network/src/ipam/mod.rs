//! Addresses: which subnet a network gets and which address an endpoint. Pure but for [`addresses`], where a plugin may be
//! asked; whoever asks the kernel does so elsewhere.

pub mod addresses;
pub mod allocator;
pub mod leases;
pub mod pool;
pub mod subnet;

pub use addresses::{AddressSource, Addresses, RemoteSource};
pub use allocator::Allocator;
pub use leases::{Lease, Leases, SubnetPlan};
pub use pool::AddressPool;
pub use subnet::Subnet;
