//! Addresses: which subnet a network gets and which address an endpoint. Pure; whoever asks the kernel does so elsewhere.

pub mod allocator;
pub mod leases;
pub mod pool;
pub mod subnet;

pub use allocator::Allocator;
pub use leases::{Lease, Leases, SubnetPlan};
pub use pool::AddressPool;
pub use subnet::Subnet;
