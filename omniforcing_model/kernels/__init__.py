"""Operations in the form that is fastest where they run; the mathematics does not know of it."""
