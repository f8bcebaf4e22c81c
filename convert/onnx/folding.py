"""ONNX nodes of constants, computed by onnx's reference evaluator.

    folding = Folding(opset=17)
    constants = folding.fold(layer, node, inputs)
"""
import math

import numpy as np

from convert.onnx.operators.table import BATCH, Constant

MOST_FOLDED = 1 << 28  # values that all folded constants may have together
# Operators that are folded where all of their inputs are constants.
FOLDED_NAMES = """
    Abs Add And Cast CastLike Ceil Clip Concat Constant ConstantOfShape Cos Div Equal Exp Expand
    Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual Identity Less LessOrEqual
    Log MatMul Max Min Mod Mul Neg Not Or Pow Range Reciprocal ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum Reshape Round ScatterElements ScatterND Sigmoid Sign Sin Size Slice
    Softmax Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Trilu Unsqueeze Where Xor"""
FOLDED = frozenset(FOLDED_NAMES.split())
SHAPE_INPUT = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}  # number of the input


class Folding:
    """Computes nodes whose inputs are Constants, as long as the results fit into memory."""

    def __init__(self, opset):
        self._opset, self._count = opset, 0

    def fold(self, layer, node, inputs):
        """Constants that a node of constants computes."""
        import onnx

        number = SHAPE_INPUT.get(node.op_type)
        arrays = [value and value.value for value in inputs]
        if number is not None and number < len(arrays):
            # A constant that is repeated for each image need not be: it is broadcast where used.
            shape = np.array(arrays[number])
            arrays[number] = np.where(shape % BATCH == 0, shape // BATCH, shape)
        weights = {name: array for name, array in zip(node.input, arrays) if name}
        graph = onnx.helper.make_graph(
            [node], "constants", [], [onnx.ValueInfoProto(name=name) for name in node.output],
            [onnx.numpy_helper.from_array(np.asarray(array), name)
             for name, array in weights.items()])
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", self._opset)])
        self._count_values(layer, model)
        try:
            from onnx.reference import ReferenceEvaluator

            results = ReferenceEvaluator(model).run(None, {})
        except Exception as error:  # of any kind: each operator of the evaluator raises its own
            raise layer.error(f"its constants cannot be computed: {error!s:.200}") from None
        origins = {value.origin for value in inputs if value and value.origin
                   and value.value.dtype.kind == "f"}
        origin = origins.pop() if len(origins) == 1 else ""
        return [Constant(np.asarray(result), origin) for result in results]

    def _count_values(self, layer, model):
        """Refuse constants that would fill the memory, before they are computed."""
        import onnx

        try:
            graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        except onnx.shape_inference.InferenceError as error:
            raise layer.error(f"its constants do not fit together: {error!s:.200}") from None
        for value in graph.output:
            tensor = value.type.tensor_type
            if not tensor.HasField("shape") or not all(
                    dim.HasField("dim_value") for dim in tensor.shape.dim):
                raise layer.error("the shape of its constants cannot be found")
            self._count += math.prod(dim.dim_value for dim in tensor.shape.dim)
        if self._count > MOST_FOLDED:
            raise layer.error("its constants would fill the memory")
