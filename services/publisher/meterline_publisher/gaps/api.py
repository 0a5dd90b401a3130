"""The RPC of InvoicesService that lists billing gaps."""

from __future__ import annotations

from typing import Any, Final

from grpc import aio
from meterline.rpc import fields, paging
from meterline_protos.publisher.v1 import invoices_pb2, invoices_pb2_grpc

from meterline_publisher.gaps import messages
from meterline_publisher.gaps.service import Gaps

Context = aio.ServicerContext[Any, Any]

_FIRST_GAP: Final = (0, fields.EARLIEST, "")


class GapsServicer(invoices_pb2_grpc.InvoicesServiceServicer):
    """See protos/meterline/publisher/v1/invoices.proto."""

    def __init__(self, gaps: Gaps) -> None:
        self._gaps = gaps

    async def ListBillingGaps(
        self, request: invoices_pb2.ListBillingGapsRequest, context: Context
    ) -> invoices_pb2.ListBillingGapsResponse:
        limit = paging.size(request.page_size)
        after = paging.key(request.page_token, paging.int4, paging.instant, paging.text)
        slug = fields.tenant("tenant_id", request.tenant_id) if request.tenant_id else ""
        # One more than requested shows whether there is a next page.
        found = await self._gaps.page(slug, after or _FIRST_GAP, limit + 1)
        page = found[:limit]
        return invoices_pb2.ListBillingGapsResponse(
            gaps=[messages.gap(one) for one in page],
            next_page_token=paging.token(*page[-1].place) if len(found) > limit else "",
        )
