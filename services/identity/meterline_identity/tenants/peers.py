"""The request that identity makes to the publisher."""

from __future__ import annotations

from meterline.errors import FailedPreconditionError
from meterline.rpc.client import Caller, Link
from meterline_protos.publisher.v1 import prices_pb2, prices_pb2_grpc


class Plans(Link):
    """The publisher's plans. Without an address nothing is known of them, and every plan is accepted."""

    def __init__(self, address: str, caller: Caller) -> None:
        super().__init__("publisher", address, caller)
        self._asked = bool(address)

    async def require(self, plan: str, currency: str) -> None:
        """Returns if the plan can bill in this currency; the empty plan bills nothing.

        Raises FailedPreconditionError for a plan without a price, in another currency, or that is archived;
        UnavailableError.
        """
        if not plan or not self._asked:
            return
        stub = prices_pb2_grpc.PricesServiceStub(self.channel)
        answer = await self.ask(stub.ListPrices(prices_pb2.ListPricesRequest(plan=plan)))
        if not answer.prices:
            raise FailedPreconditionError(f"plan {plan}", "has no prices", "PLAN_UNKNOWN")
        codes = {str(price.body["currency"]) for price in answer.prices}
        if codes != {currency}:
            raise FailedPreconditionError(
                f"plan {plan}", f"is in {', '.join(sorted(codes))}, not in {currency}", "CURRENCY_DIFFERS"
            )
        if any(known.HasField("archived_at") for known in answer.plans):
            raise FailedPreconditionError(
                f"plan {plan}", "is archived, and given to no tenant any more", "PLAN_ARCHIVED"
            )
