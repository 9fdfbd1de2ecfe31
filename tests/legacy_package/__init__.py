"""A package in Matterport's idiom on tf_keras, and checks of it in a process of their own."""
