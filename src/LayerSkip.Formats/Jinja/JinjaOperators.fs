namespace LayerSkip

open System
open System.Numerics

/// Operators of two values, as jinja2 takes them from Python.
[<RequireQualifiedAccess>]
type internal Operator =
    | Add
    | Subtract
    | Multiply
    | Divide
    | FloorDivide
    | Modulo
    | Power

/// Comparisons, which may stand in a row: a < b < c.
[<RequireQualifiedAccess>]
type internal Comparison =
    | Equal
    | NotEqual
    | Less
    | LessOrEqual
    | Greater
    | GreaterOrEqual
    | In
    | NotIn

[<RequireQualifiedAccess>]
module internal JinjaOperators =
    /// Where Python counts without end, we stop: no conversation needs such numbers.
    let private bounded (value: BigInteger) : Value =
        if value.GetBitLength() > 4096L then
            Value.fail "a number grows beyond 4096 bits"

        Value.Int value

    let private mismatch (sign: string) (a: Value) (b: Value) : Value =
        match a, b with
        | Value.Undefined what, _
        | _, Value.Undefined what -> Value.fail what
        | _ -> Value.fail $"a {Value.typeName a} and a {Value.typeName b} cannot be joined by {sign}"

    let private floorOf (a: BigInteger) (b: BigInteger) : BigInteger =
        let mutable rest = BigInteger.Zero
        let quotient = BigInteger.DivRem(a, b, &rest)

        if not rest.IsZero && (rest.Sign < 0) <> (b.Sign < 0) then
            quotient - BigInteger.One
        else
            quotient

    // Python's sign is the divisor's.
    let private floatModulo (a: float) (b: float) : float =
        let rest = a % b
        if rest <> 0.0 && (rest < 0.0) <> (b < 0.0) then rest + b
        elif rest = 0.0 then Math.CopySign(0.0, b)
        else rest

    let private divideCheck isZero =
        if isZero then
            Value.fail "division by zero"

    let private wholes (operator: Operator) (a: BigInteger) (b: BigInteger) : Value =
        match operator with
        | Operator.Add -> bounded (a + b)
        | Operator.Subtract -> bounded (a - b)
        | Operator.Multiply -> bounded (a * b)
        | Operator.Divide ->
            divideCheck b.IsZero
            Value.Float(float a / float b)
        | Operator.FloorDivide ->
            divideCheck b.IsZero
            Value.Int(floorOf a b)
        | Operator.Modulo ->
            divideCheck b.IsZero
            Value.Int(a - b * floorOf a b)
        | Operator.Power when b.Sign < 0 ->
            divideCheck a.IsZero
            Value.Float(Math.Pow(float a, float b))
        | Operator.Power ->
            if
                not (BigInteger.Abs(a) <= BigInteger.One)
                && BigInteger(a.GetBitLength()) * b > BigInteger 4096
            then
                Value.fail "a number grows beyond 4096 bits"

            let power =
                if BigInteger.Abs(a) <= BigInteger.One && b > BigInteger 2 then
                    int (b % BigInteger 2) + 2
                else
                    int b

            Value.Int(BigInteger.Pow(a, power))

    let private floats (operator: Operator) (a: float) (b: float) : Value =
        match operator with
        | Operator.Add -> Value.Float(a + b)
        | Operator.Subtract -> Value.Float(a - b)
        | Operator.Multiply -> Value.Float(a * b)
        | Operator.Divide ->
            divideCheck (b = 0.0)
            Value.Float(a / b)
        | Operator.FloorDivide ->
            divideCheck (b = 0.0)
            Value.Float(floor (a / b))
        | Operator.Modulo ->
            divideCheck (b = 0.0)
            Value.Float(floatModulo a b)
        | Operator.Power ->
            let power = Math.Pow(a, b)

            if Double.IsFinite a && Double.IsFinite b && not (Double.IsFinite power) then
                Value.fail "a power that is no finite number"

            Value.Float power

    let private repeated (work: Work) (items: Value[]) (times: BigInteger) : Value[] =
        let count =
            if times.Sign < 0 || items.Length = 0 then
                BigInteger.Zero
            else
                times

        if count * BigInteger items.Length > BigInteger 1_000_000 then
            Value.fail "a list grows beyond a million items"

        work.Made(Array.concat (Array.replicate (int count) items))

    let private repeatedText (work: Work) (text: Marked) (times: BigInteger) : Value =
        if times > BigInteger(1 <<< 25) then
            Value.fail "a text grows beyond 32 Mi characters"

        Value.Text(JinjaText.repeat work (int (BigInteger.Max(times, BigInteger.Zero))) text)

    let private signOf (operator: Operator) =
        match operator with
        | Operator.Add -> "+"
        | Operator.Subtract -> "-"
        | Operator.Multiply -> "*"
        | Operator.Divide -> "/"
        | Operator.FloorDivide -> "//"
        | Operator.Modulo -> "%"
        | Operator.Power -> "**"

    /// What two values give.
    let apply (work: Work) (operator: Operator) (a: Value) (b: Value) : Value =
        let sign = signOf operator

        match Value.tryWhole a, Value.tryWhole b with
        | ValueSome a, ValueSome b -> wholes operator a b
        | wholeA, wholeB ->
            match Value.tryNumber a, Value.tryNumber b with
            | ValueSome a, ValueSome b -> floats operator a b
            | _ ->
                match operator, a, b with
                | Operator.Add, Value.Text a, Value.Text b ->
                    Value.Text(JinjaText.join work (Marked.trusted "") [| a; b |])
                | Operator.Add, Value.List a, Value.List b -> Value.List(work.Made(Array.append a b))
                | Operator.Add, Value.Tuple a, Value.Tuple b -> Value.Tuple(work.Made(Array.append a b))
                | Operator.Modulo, Value.Text _, _ ->
                    Value.fail "formatting by % is not known here; join the pieces by ~"
                | Operator.Multiply, Value.Text text, _ when wholeB.IsSome ->
                    repeatedText work text wholeB.Value
                | Operator.Multiply, _, Value.Text text when wholeA.IsSome ->
                    repeatedText work text wholeA.Value
                | Operator.Multiply, Value.List items, _ when wholeB.IsSome ->
                    Value.List(repeated work items wholeB.Value)
                | Operator.Multiply, _, Value.List items when wholeA.IsSome ->
                    Value.List(repeated work items wholeA.Value)
                | Operator.Multiply, Value.Tuple items, _ when wholeB.IsSome ->
                    Value.Tuple(repeated work items wholeB.Value)
                | _ -> mismatch sign a b

    /// -x.
    let negate (value: Value) : Value =
        match value, Value.tryWhole value with
        | _, ValueSome whole -> Value.Int(-whole)
        | Value.Float value, _ -> Value.Float(-value)
        | Value.Undefined what, _ -> Value.fail what
        | _ -> Value.fail $"a {Value.typeName value} has no negative"

    /// +x.
    let plus (value: Value) : Value = negate (negate value)

    /// Whether a value is in another.
    let isIn (work: Work) (item: Value) (holder: Value) : bool =
        match holder, item with
        | Value.Text text, Value.Text piece ->
            work.Spend(text.Text.Length / 64)
            text.Text.Contains(piece.Text, StringComparison.Ordinal)
        | Value.Text _, Value.Undefined what -> Value.fail what
        | Value.Text _, _ -> Value.fail $"only texts are in texts, no {Value.typeName item}"
        | Value.Dict dict, _ -> (Value.tryFind item dict).IsSome
        | Value.Generator queue, _ ->
            let mutable found = false

            while not found && queue.Count > 0 do
                found <- JinjaOrder.equal work (queue.Dequeue()) item

            found
        | _ -> Value.items work holder |> Array.exists (JinjaOrder.equal work item)

    /// One comparison.
    let compares (work: Work) (comparison: Comparison) (a: Value) (b: Value) : bool =
        let ordered holds = JinjaOrder.tryCompare work a b |> Option.exists holds

        match comparison with
        | Comparison.Equal -> JinjaOrder.equal work a b
        | Comparison.NotEqual -> not (JinjaOrder.equal work a b)
        | Comparison.Less -> ordered (fun order -> order < 0)
        | Comparison.LessOrEqual -> ordered (fun order -> order <= 0)
        | Comparison.Greater -> ordered (fun order -> order > 0)
        | Comparison.GreaterOrEqual -> ordered (fun order -> order >= 0)
        | Comparison.In -> isIn work a b
        | Comparison.NotIn -> not (isIn work a b)

    let private tryIndex (count: int) (at: BigInteger) : int voption =
        let at = if at.Sign < 0 then at + BigInteger count else at
        if at.Sign >= 0 && at < BigInteger count then
            ValueSome(int at)
        else
            ValueNone

    /// x[key], None where there is nothing: then an attribute of that name is looked for.
    let tryItem (holder: Value) (key: Value) : Value voption =
        let at (items: Value[]) =
            match Value.tryWhole key with
            | ValueSome index -> tryIndex items.Length index |> ValueOption.map (fun at -> items[at])
            | ValueNone -> ValueNone

        match holder with
        | Value.Dict dict ->
            match key with
            // Python's "unhashable" is one more way of not being there.
            | Value.List _
            | Value.Dict _ -> ValueNone
            | _ -> Value.tryFind key dict
        | Value.List items
        | Value.Tuple items -> at items
        | Value.Range(start, stop, step) -> at (Value.range start stop step)
        | Value.Text text ->
            match Value.tryWhole key with
            | ValueNone -> ValueNone
            | ValueSome index ->
                tryIndex (Value.textLength text.Text) index
                |> ValueOption.map (fun at ->
                    let unit = Value.unitAt text.Text
                    Value.Text(Marked.sub (unit at) (unit (at + 1) - unit at) text))
        | Value.Undefined what -> Value.fail what
        | _ -> ValueNone

    /// The places of x[start:stop:step] in a sequence, as Python's slice.indices has them.
    let private places (count: int) (start: BigInteger voption) stop (step: BigInteger) : seq<int> =
        let count' = BigInteger count
        let backward = step.Sign < 0
        let least = if backward then BigInteger.MinusOne else BigInteger.Zero
        let most = if backward then count' - BigInteger.One else count'

        let bound (given: BigInteger voption) fallback =
            match given with
            | ValueNone -> fallback
            | ValueSome at ->
                let at = if at.Sign < 0 then at + count' else at
                BigInteger.Max(least, BigInteger.Min(most, at))

        let first = bound start (if backward then most else least)
        let last = bound stop (if backward then least else most)

        seq {
            let mutable at = first

            while (if backward then at > last else at < last) do
                yield int at
                at <- at + step
        }

    /// x[start:stop:step]; None of what cannot be cut.
    let trySlice (work: Work) (holder: Value) (start: Value) (stop: Value) (step: Value) : Value voption =
        let bound (value: Value) =
            match value, Value.tryWhole value with
            | Value.None, _ -> ValueNone
            | _, ValueSome whole -> ValueSome whole
            | Value.Undefined what, _ -> Value.fail what
            | _ -> Value.fail $"a slice is bounded by whole numbers, not by a {Value.typeName value}"

        let start, stop = bound start, bound stop
        let step = bound step |> ValueOption.defaultValue BigInteger.One

        if step.IsZero then
            Value.fail "the step of a slice must not be zero"

        let cut (items: Value[]) = work.Made([| for at in places items.Length start stop step -> items[at] |])

        match holder with
        | Value.Undefined what -> Value.fail what
        | Value.List items -> ValueSome(Value.List(cut items))
        | Value.Tuple items -> ValueSome(Value.Tuple(cut items))
        | Value.Range _ -> Value.fail "ranges are not cut here; make a list of it"
        | Value.Text text ->
            let unit = Value.unitAt text.Text
            let places = places (Value.textLength text.Text) start stop step

            if step.IsOne then
                match Seq.tryHead places with
                | None -> ValueSome(Value.text "")
                | Some first ->
                    // Ascending by one: as many as there are.
                    let count = Seq.length places
                    ValueSome(Value.Text(Marked.sub (unit first) (unit (first + count) - unit first) text))
            else
                let out = work.Builder()

                for at in places do
                    out.Append(text, unit at, unit (at + 1) - unit at)

                ValueSome(Value.Text(work.Made(out.Finish())))
        | _ -> ValueNone
