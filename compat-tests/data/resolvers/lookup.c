/* Prints what the C library finds: `lookup NAME` addresses of both families, `lookup -4 NAME` and `-6` those of one,
   `lookup -r ADDRESS` the name of an address. */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int count, char **arguments) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *next;
    const char *option = count > 2 ? arguments[1] : "", *name = arguments[count - 1];
    char text[NI_MAXHOST];
    int reverse = !strcmp(option, "-r"), failed;
    hints.ai_family = !strcmp(option, "-4") ? AF_INET : !strcmp(option, "-6") ? AF_INET6 : AF_UNSPEC;
    if (reverse) hints.ai_flags = AI_NUMERICHOST;
    if ((failed = getaddrinfo(name, NULL, &hints, &found))) {
        puts(failed == EAI_NONAME ? "unknown" : gai_strerror(failed));
        return 2;
    }
    for (next = found; next; next = next->ai_next) {
        int flags = reverse ? NI_NAMEREQD : NI_NUMERICHOST;
        if (getnameinfo(next->ai_addr, next->ai_addrlen, text, sizeof text, NULL, 0, flags)) {
            puts("unknown");
            return 2;
        }
        puts(text);
    }
    return 0;
}
