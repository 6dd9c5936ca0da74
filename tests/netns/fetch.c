/* Fetches a page by HTTP/1.0 and prints it: a program with a resolver and no library of its own. fetch NAME PORT */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *each;
    char room[65536];
    int sock = -1, error;
    ssize_t got;
    if (argc != 3 || (error = getaddrinfo(argv[1], argv[2], &hints, &found)) != 0) {
        fprintf(stderr, "fetch: %s\n", argc == 3 ? gai_strerror(error) : "NAME PORT");
        return 1;
    }
    for (each = found; each && sock < 0; each = each->ai_next) {
        sock = socket(each->ai_family, SOCK_STREAM, 0);
        if (sock >= 0 && connect(sock, each->ai_addr, each->ai_addrlen) != 0) {
            perror("fetch: connect");
            close(sock);
            sock = -1;
        }
    }
    if (sock < 0) return 2;
    snprintf(room, sizeof room, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", argv[1]);
    if (write(sock, room, strlen(room)) < 0) return 3;
    while ((got = read(sock, room, sizeof room)) > 0) fwrite(room, 1, (size_t)got, stdout);
    return got == 0 ? 0 : 4;
}
