// boost's message_queue behind three C functions, for the bench's peer rows.
#include <boost/interprocess/ipc/message_queue.hpp>

namespace ipc = boost::interprocess;

namespace {
constexpr const char *NAME = "ipcspace-bench";
}

/// A queue with room for some messages of `size` bytes; null where that fails.
extern "C" void *peer_boost_open(std::size_t size) {
	try {
		ipc::message_queue::remove(NAME);
		return new ipc::message_queue(ipc::create_only, NAME, 16, size, ipc::permissions(0600));
	} catch (const std::exception &) {
		return nullptr;
	}
}

/// Sends `size` bytes and receives them into the same place; whether it succeeded.
extern "C" bool peer_boost_pair(void *queue, void *text, std::size_t size) {
	try {
		auto *q = static_cast<ipc::message_queue *>(queue);
		std::size_t received = 0;
		unsigned priority = 0;
		q->send(text, size, 0);
		q->receive(text, size, received, priority);
		return received == size;
	} catch (const std::exception &) {
		return false;
	}
}

extern "C" void peer_boost_close(void *queue) {
	delete static_cast<ipc::message_queue *>(queue);
	ipc::message_queue::remove(NAME);
}
