# php-cli's sysvmsg, sysvsem and sysvshm with PHP's own tests, run by PHP's own runner.
cp -r "$FETCHED/php/." .
export NO_INTERACTION=1 TEST_PHP_EXECUTABLE=/usr/bin/php
/usr/bin/php run-tests.php -q --show-diff ext/sysvmsg/tests ext/sysvsem/tests ext/sysvshm/tests | tee result
grep -Eq '^Tests passed +: +[1-9]' result
