//! What is done at each route: read the request, ask the bank, write the reply.
//!
//! There is a file a resource. It declares the resource's operations, as the document shows them, and has what
//! each of them does.

pub(super) mod accounts;
pub(super) mod events;
pub(super) mod service;
pub(super) mod transactions;

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
            Endpoint::Account => self.account_now().await,
            Endpoint::Close => self.close_account().await,
            Endpoint::Deposit => self.post(Direction::Deposit).await,
            Endpoint::Withdraw => self.post(Direction::Withdrawal).await,
            Endpoint::Transaction => self.transaction().await,
            Endpoint::History => self.history(&query).await,
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
