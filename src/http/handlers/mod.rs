//! What is done at each route: read the request, ask the bank, write the reply.
//!
//! There is a file a resource. It declares the resource's operations, as the document shows them, and has what
//! each of them does.

pub(super) mod account_links;
pub(super) mod accounts;
pub(super) mod batches;
pub(super) mod events;
pub(super) mod holds;
mod pages;
pub(super) mod service;
pub(super) mod statements;
pub(super) mod transactions;
pub(super) mod transfers;

use futures_util::future::Either;

use super::api::{Answer, Api, Wait};
use super::call::Call;
use super::problem::Problem;
use super::routes::Endpoint;
use crate::ledger::Direction;

impl Call<'_> {
    /// Does it.
    ///
    /// What is asked most stands here by itself; the others are boxed, so that a request is not as large as the
    /// largest of them; see [`Api::answer`].
    ///
    /// What is waited for borrows only from the service, so that the request can go before it.
    pub(super) async fn answer<'s>(
        &mut self,
        api: &'s Api,
    ) -> Result<Answer<impl Wait<'s> + use<'s>>, Problem> {
        let posted = |later| Answer::Later(Either::Left(later));
        let moved = |later| Answer::Later(Either::Right(later));
        let query = self.query()?;
        self.check_change()?;
        let reply = match self.operation.endpoint {
            Endpoint::DepositV1 => return self.post_v1(api, Direction::Deposit).await.map(posted),
            Endpoint::WithdrawV1 => return self.post_v1(api, Direction::Withdrawal).await.map(posted),
            Endpoint::Transfer => return self.transfer(api, &query).await.map(moved),
            Endpoint::OpenAccountV1 => Box::pin(self.open_account_v1()).await,
            Endpoint::AccountV1 => self.account_v1().await,
            Endpoint::CloseV1 => Box::pin(self.close_account_v1()).await,
            Endpoint::TransactionV1 => Box::pin(self.transaction_v1()).await,
            Endpoint::OpenAccount => Box::pin(self.open_account()).await,
            Endpoint::Accounts => Box::pin(self.list_accounts(&query)).await,
            Endpoint::UpdateAccount => Box::pin(self.update_account()).await,
            Endpoint::ReadTransfer => Box::pin(self.read_transfer()).await,
            Endpoint::Reverse => Box::pin(self.reverse(&query)).await,
            Endpoint::Hold => Box::pin(self.place_hold(&query)).await,
            Endpoint::ReadHold => Box::pin(self.read_hold()).await,
            Endpoint::Holds => Box::pin(self.holds(&query)).await,
            Endpoint::Capture => Box::pin(self.capture_hold()).await,
            Endpoint::Void => Box::pin(self.void_hold()).await,
            Endpoint::PutLink => Box::pin(self.put_link()).await,
            Endpoint::ReadLink => Box::pin(self.read_link()).await,
            Endpoint::Links => Box::pin(self.links()).await,
            Endpoint::DeleteLink => Box::pin(self.delete_link()).await,
            Endpoint::Batch => Box::pin(self.batch(&query)).await,
            Endpoint::Account => Box::pin(self.account_then(&query)).await,
            Endpoint::Close => Box::pin(self.close_account()).await,
            Endpoint::Deposit => Box::pin(self.post(Direction::Deposit)).await,
            Endpoint::Withdraw => Box::pin(self.post(Direction::Withdrawal)).await,
            Endpoint::Transaction => Box::pin(self.transaction()).await,
            Endpoint::History => Box::pin(self.history(&query)).await,
            Endpoint::Statement => Box::pin(self.statement(&query)).await,
            Endpoint::Events => Box::pin(self.events(&query)).await,
            Endpoint::TrialBalance => Box::pin(self.trial_balance()).await,
            Endpoint::Service => Ok(self.service()),
            Endpoint::OpenApi => Ok(self.openapi()),
            Endpoint::Docs => Ok(self.docs()),
            Endpoint::Problems => Ok(self.problems()),
            Endpoint::Problem => self.problem(),
            Endpoint::Health => Ok(self.health()),
            Endpoint::Readiness => self.readiness(),
            Endpoint::Metrics => Ok(self.metrics()),
        };
        reply.map(Answer::Now)
    }
}
