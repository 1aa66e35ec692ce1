// strftime_now: Python's datetime.strftime in the C locale.
#include <cstdio>
#include <ctime>

#include "base/error.h"
#include "text/jinja_eval.h"

namespace engine::jinja {

namespace {

struct Moment {
  std::tm tm{};
  int microsecond = 0;
};

bool is_leap(int year) { return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0; }
int days_in_month(int year, int month) {
  static constexpr int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  return month == 1 && is_leap(year) ? 29 : days[month];
}

Moment parse_iso(std::string_view text) {
  Moment m;
  const std::string s(text);
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0, n = 0;
  const int fields =
      std::sscanf(s.c_str(), "%4d-%2d-%2d%*1[T ]%2d:%2d:%2d%n", &year, &month, &day, &hour, &minute, &second, &n);
  const bool date_only = fields == 3;
  if ((fields != 6 && !date_only) || year < 1 || month < 1 || month > 12 || day < 1 ||
      day > days_in_month(year, month - 1) || hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 ||
      second > 59)
    throw Error("now: expected a date and time such as 2025-01-31T12:00:00, got '" + s + "'");
  if (fields == 6 && s.size() > static_cast<size_t>(n) && s[static_cast<size_t>(n)] == '.') {
    int scale = 100000;
    for (size_t i = static_cast<size_t>(n) + 1; i < s.size() && s[i] >= '0' && s[i] <= '9'; ++i, scale /= 10)
      m.microsecond += (s[i] - '0') * scale;
  }
  m.tm.tm_year = year - 1900;
  m.tm.tm_mon = month - 1;
  m.tm.tm_mday = day;
  m.tm.tm_hour = hour;
  m.tm.tm_min = minute;
  m.tm.tm_sec = second;
  m.tm.tm_isdst = -1;
  for (int k = 0; k < month - 1; ++k) m.tm.tm_yday += days_in_month(year, k);
  m.tm.tm_yday += day - 1;
  const int y = year - 1;
  m.tm.tm_wday = (y * 365 + y / 4 - y / 100 + y / 400 + m.tm.tm_yday + 1) % 7;  // 1 January of year 1 was a Monday
  return m;
}

Moment system_now() {
  std::timespec now{};
  std::timespec_get(&now, TIME_UTC);
  Moment m;
  localtime_r(&now.tv_sec, &m.tm);
  m.microsecond = static_cast<int>(now.tv_nsec / 1000);
  return m;
}

}  // namespace

std::string format_time(std::string_view format, std::string_view iso_now) {
  const Moment m = iso_now.empty() ? system_now() : parse_iso(iso_now);
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 >= format.size()) {
      out.push_back(format[i]);
      continue;
    }
    // One directive at a time, since text between them may hold zeros or be longer than a buffer: %, flags, width,
    // letter.
    size_t end = i + 1;
    while (end < format.size() &&
           (std::string_view("-_0^#+").find(format[end]) != std::string_view::npos ||
            (format[end] >= '0' && format[end] <= '9')) &&
           end < i + 5)
      ++end;
    if (end < format.size() && (format[end] == 'E' || format[end] == 'O')) ++end;
    if (end >= format.size()) {
      out.append(format.substr(i));
      break;
    }
    const std::string directive(format.substr(i, end + 1 - i));
    char buffer[256];
    switch (format[end]) {
      case 'f':
        std::snprintf(buffer, sizeof buffer, "%06d", m.microsecond);
        out += buffer;
        break;
      case 'z':
      case 'Z':
        break;  // a datetime without a time zone has none to print
      default: {
        const size_t n = std::strftime(buffer, sizeof buffer, directive.c_str(), &m.tm);
        out.append(buffer, n);
      }
    }
    i = end;
  }
  return out;
}

}  // namespace engine::jinja
