//! What is done at each route: read the request, ask the bank, write the reply.
//!
//! There is a file a resource. It declares the resource's operations, as the document shows them, and has what
//! each of them does.

pub(super) mod account_links;
pub(super) mod accounts;
pub(super) mod batches;
pub(super) mod events;
pub(super) mod holds;
pub(super) mod service;
pub(super) mod statements;
pub(super) mod transactions;
pub(super) mod transfers;

use super::call::Call;
use super::problem::Problem;
use super::reply::Reply;
use super::routes::Endpoint;
use crate::ledger::Direction;

impl Call<'_> {
    /// Does it.
    pub(super) async fn answer(mut self) -> Result<Reply, Problem> {
        let query = self.query()?;
        match self.operation.endpoint {
            Endpoint::OpenAccountV1 => self.open_account_v1().await,
            Endpoint::AccountV1 => self.account_v1().await,
            Endpoint::CloseV1 => self.close_account_v1().await,
            Endpoint::DepositV1 => self.post_v1(Direction::Deposit).await,
            Endpoint::WithdrawV1 => self.post_v1(Direction::Withdrawal).await,
            Endpoint::TransactionV1 => self.transaction_v1().await,
            Endpoint::OpenAccount => self.open_account().await,
            Endpoint::Accounts => self.list_accounts(&query).await,
            Endpoint::UpdateAccount => self.update_account().await,
            Endpoint::Transfer => self.transfer(&query).await,
            Endpoint::ReadTransfer => self.read_transfer().await,
            Endpoint::Reverse => self.reverse(&query).await,
            Endpoint::Hold => self.place_hold(&query).await,
            Endpoint::ReadHold => self.read_hold().await,
            Endpoint::Holds => self.holds().await,
            Endpoint::Capture => self.capture_hold().await,
            Endpoint::Void => self.void_hold().await,
            Endpoint::PutLink => self.put_link().await,
            Endpoint::ReadLink => self.read_link().await,
            Endpoint::Links => self.links().await,
            Endpoint::DeleteLink => self.delete_link().await,
            Endpoint::Batch => self.batch(&query).await,
            Endpoint::Account => self.account_then(&query).await,
            Endpoint::Close => self.close_account().await,
            Endpoint::Deposit => self.post(Direction::Deposit).await,
            Endpoint::Withdraw => self.post(Direction::Withdrawal).await,
            Endpoint::Transaction => self.transaction().await,
            Endpoint::History => self.history(&query).await,
            Endpoint::Statement => self.statement(&query).await,
            Endpoint::Events => self.events(&query).await,
            Endpoint::TrialBalance => self.trial_balance().await,
            Endpoint::Service => Ok(self.service()),
            Endpoint::OpenApi => Ok(self.openapi()),
            Endpoint::Docs => Ok(self.docs()),
            Endpoint::Problems => Ok(self.problems()),
            Endpoint::Problem => self.problem(),
            Endpoint::Health => Ok(self.health()),
            Endpoint::Readiness => self.readiness(),
            Endpoint::Metrics => Ok(self.metrics()),
        }
    }
}
