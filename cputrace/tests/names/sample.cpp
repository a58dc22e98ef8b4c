#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace shop {

template <typename Item> class Basket {
  public:
    __attribute__((noinline)) void add(const Item &item, int times) {
        for (int i = 0; i < times; i++) {
            items.push_back(item);
        }
    }
    __attribute__((noinline)) std::size_t size() const { return items.size(); }

  private:
    std::vector<Item> items;
};

__attribute__((noinline)) std::size_t count(const std::map<std::string, int> &prices) {
    auto dear = [](int price) { return price > 10; };
    std::size_t found = 0;
    for (const auto &[name, price] : prices) {
        found += dear(price) ? name.size() : 0;
    }
    return found;
}

} // namespace shop

int main(int argc, char **argv) {
    shop::Basket<std::string> basket;
    basket.add(argv[0], argc);
    std::map<std::string, int> prices{{"tea", 3}, {"saffron", 30}};
    return static_cast<int>(basket.size() + shop::count(prices)) & 1;
}
