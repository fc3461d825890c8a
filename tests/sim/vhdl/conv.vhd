-- A square convolution of 8 channels to 8 behind the streams of a set's bench: a column of one tap a clock.
-- Weights are signed and inputs unsigned, both of 4 bits; padding is 0 and keeps the size of the plane.
library ieee;
use ieee.std_logic_1164.all;
use ieee.numeric_std.all;

entity conv is
  generic (
    PLANE_Y  : positive := 4;
    PLANE_X  : positive := 4;
    KERNEL   : positive := 3;
    ACC_BITS : positive := 16
  );
  port (
    clk                  : in  std_logic;
    rst_n                : in  std_logic;
    s_weight_tvalid      : in  std_logic;
    s_weight_tready      : out std_logic;
    s_weight_tdata       : in  std_logic_vector(31 downto 0);
    s_weight_tlast       : in  std_logic;
    s_input_tvalid       : in  std_logic;
    s_input_tready       : out std_logic;
    s_input_tdata        : in  std_logic_vector(31 downto 0);
    s_input_tlast        : in  std_logic;
    m_accumulator_tvalid : out std_logic;
    m_accumulator_tready : in  std_logic;
    m_accumulator_tdata  : out std_logic_vector(8 * ACC_BITS - 1 downto 0);
    m_accumulator_tlast  : out std_logic
  );
end entity;

architecture rtl of conv is
  constant PAD : natural := KERNEL / 2;
  type words is array (natural range <>) of std_logic_vector(31 downto 0);
  type numbers is array (0 to 7) of signed(ACC_BITS - 1 downto 0);
  type phase is (LOADS, TAKES, SUMS, GIVES);
  signal logic   : words(0 to KERNEL * KERNEL * 8 - 1);  -- the weights, by a name that is a word of SystemVerilog
  signal pixels  : words(0 to PLANE_Y * PLANE_X - 1);
  signal totals  : numbers;
  signal state   : phase;
  signal at      : natural range 0 to 1023;
  signal y       : natural range 0 to PLANE_Y - 1;
  signal x       : natural range 0 to PLANE_X - 1;
  signal ky, kx  : natural range 0 to KERNEL - 1;
  signal column  : natural range 0 to 7;
begin
  s_weight_tready <= '1' when state = LOADS else '0';
  s_input_tready  <= '1' when state = TAKES else '0';
  m_accumulator_tvalid <= '1' when state = GIVES else '0';
  m_accumulator_tlast  <= '1' when y = PLANE_Y - 1 and x = PLANE_X - 1 else '0';
  lanes : for lane in 0 to 7 generate
    m_accumulator_tdata((lane + 1) * ACC_BITS - 1 downto lane * ACC_BITS) <= std_logic_vector(totals(lane));
  end generate;

  process (clk)
    variable py, px : integer range -KERNEL to 1023;
    variable weight, pixel : std_logic_vector(31 downto 0);
    variable total : signed(ACC_BITS - 1 downto 0);
  begin
    if rising_edge(clk) then
      if rst_n = '0' then
        state <= LOADS;
        at <= 0;
      else
        case state is
          when LOADS =>
            if s_weight_tvalid = '1' then
              logic(at) <= s_weight_tdata;
              at <= at + 1;
              if s_weight_tlast = '1' then
                at <= 0;
                state <= TAKES;
              end if;
            end if;
          when TAKES =>
            y <= 0; x <= 0; ky <= 0; kx <= 0; column <= 0;
            totals <= (others => (others => '0'));
            if s_input_tvalid = '1' then
              pixels(at) <= s_input_tdata;
              at <= at + 1;
              if s_input_tlast = '1' then
                at <= 0;
                state <= SUMS;
              end if;
            end if;
          when SUMS =>
            py := y + ky - PAD;
            px := x + kx - PAD;
            if py >= 0 and py < PLANE_Y and px >= 0 and px < PLANE_X then
              pixel := pixels(py * PLANE_X + px);
              weight := logic((ky * KERNEL + kx) * 8 + column);
              total := totals(column);
              for row in 0 to 7 loop
                total := total + resize(signed(weight(4 * row + 3 downto 4 * row)) *
                                        signed('0' & pixel(4 * row + 3 downto 4 * row)), ACC_BITS);
              end loop;
              totals(column) <= total;
            end if;
            if column /= 7 then
              column <= column + 1;
            else
              column <= 0;
              if kx /= KERNEL - 1 then
                kx <= kx + 1;
              else
                kx <= 0;
                if ky /= KERNEL - 1 then
                  ky <= ky + 1;
                else
                  ky <= 0;
                  state <= GIVES;
                end if;
              end if;
            end if;
          when GIVES =>
            if m_accumulator_tready = '1' then
              totals <= (others => (others => '0'));
              state <= SUMS;
              if x /= PLANE_X - 1 then
                x <= x + 1;
              else
                x <= 0;
                if y /= PLANE_Y - 1 then
                  y <= y + 1;
                else
                  y <= 0;
                  state <= TAKES;
                end if;
              end if;
            end if;
        end case;
      end if;
    end if;
  end process;
end architecture;
